//! Who breaks things: at random, but by a plan that the seed repeats, one or two at a
//! time, with pauses that show whether all has healed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use tests::history::{Fault, Recorder, now};
use tests::proxy::Conduct;
use tokio::time::{Instant, sleep, sleep_until};

use crate::stack::{Stack, Thing, Weak};

/// How something is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// kill -9, and started again after a while.
    Kill,
    /// SIGSTOP, and SIGCONT after a while.
    Freeze,
    /// SIGTERM, and started again.
    Restart,
    /// Nothing passes.
    Cut,
    /// Nothing passes from those who connect.
    CutForth,
    /// Nothing passes to them.
    CutBack,
    /// All passes slowly.
    Slow,
    /// All connections are reset, again and again.
    Reset,
    /// All connections are reset, and each new one.
    Refuse,
}

impl Way {
    /// Those in which a thing can be broken.
    fn of(thing: &Thing) -> &'static [Self] {
        match thing {
            Thing::Program(_) => &[Self::Kill, Self::Freeze, Self::Restart],
            Thing::Link(_) => &[
                Self::Cut,
                Self::CutForth,
                Self::CutBack,
                Self::Slow,
                Self::Reset,
                Self::Refuse,
            ],
            Thing::Node(..) | Thing::Broker(_) => &[Self::Kill, Self::Freeze],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Restart => "restart",
            Self::Cut => "cut",
            Self::CutForth => "cut forth",
            Self::CutBack => "cut back",
            Self::Slow => "slow",
            Self::Reset => "reset",
            Self::Refuse => "refuse",
        }
    }
}

/// The longest that a program may take to end, or to serve again.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is broken together, after a pause.
pub(crate) struct Round {
    /// What, how, after how much longer, and for how long.
    faults: Vec<(Weak, Way, Duration, Duration)>,
    pause: Duration,
}

/// Whom the nemesis breaks, and how.
pub(crate) struct Plan {
    random: StdRng,
    pause: std::ops::Range<u64>,
    /// What can be done to programs and servers, and what to the links between them.
    decks: [Deck; 2],
}

/// Some of all that can be done, in the order in which it will be: each once before any twice.
#[derive(Default)]
struct Deck {
    ways: Vec<(&'static str, Way)>,
    next: usize,
}

impl Deck {
    fn draw(&mut self, random: &mut StdRng) -> Option<(&'static str, Way)> {
        if self.next == 0 {
            self.ways.shuffle(random);
        }
        let way = self.ways.get(self.next).copied();
        self.next = (self.next + 1) % self.ways.len().max(1);
        way
    }
}

/// The share of faults that are of programs and servers: of links there are more kinds.
const PROGRAMS: f64 = 0.6;

impl Plan {
    /// All ways to break the stack, or only these; pauses of so many milliseconds.
    pub(crate) fn new(
        stack: &Stack,
        seed: u64,
        only: Option<&[Way]>,
        pause: std::ops::Range<u64>,
    ) -> Self {
        let mut decks = [Deck::default(), Deck::default()];
        for weak in &stack.weak {
            let deck = usize::from(matches!(weak.thing, Thing::Link(_)));
            let ways = &mut decks[deck].ways;
            for way in Way::of(&weak.thing) {
                let wanted = only.is_none_or(|only| only.contains(way));
                if wanted && !ways.contains(&(weak.sort, *way)) {
                    ways.push((weak.sort, *way));
                }
            }
        }
        Self {
            random: StdRng::seed_from_u64(seed),
            pause,
            decks,
        }
    }

    fn next_way(&mut self) -> Option<(&'static str, Way)> {
        let first = usize::from(!self.random.random_bool(PROGRAMS));
        let random = &mut self.random;
        let way = self.decks[first].draw(random);
        way.or_else(|| self.decks[1 - first].draw(random))
    }

    fn round(&mut self, stack: &Stack) -> Option<Round> {
        let count = if self.random.random_bool(0.25) { 2 } else { 1 };
        let mut faults: Vec<(Weak, Way, Duration, Duration)> = Vec::new();
        for _ in 0..count {
            let (sort, way) = self.next_way()?;
            let those: Vec<&Weak> = stack.weak.iter().filter(|weak| weak.sort == sort).collect();
            let weak = (*those.choose(&mut self.random)?).clone();
            let millis = |range| Duration::from_millis(range);
            let delay = millis(self.random.random_range(0..1_500));
            let held = match way {
                Way::Kill | Way::Restart => millis(self.random.random_range(0..2_000)),
                Way::Reset => millis(self.random.random_range(100..1_000)),
                _ => millis(self.random.random_range(500..6_000)),
            };
            // One thing is broken in one way at a time.
            if !(faults.iter()).any(|(other, ..)| other.sort == weak.sort) {
                faults.push((weak, way, delay, held));
            }
        }
        let pause = Duration::from_millis(self.random.random_range(self.pause.clone()));
        Some(Round { faults, pause })
    }
}

/// Breaks things until the time is over, and mends them all.
pub(crate) async fn run(stack: &Stack, mut plan: Plan, length: Duration, recorder: &Recorder) {
    let over = Instant::now() + length;
    loop {
        let Some(round) = plan.round(stack) else {
            sleep_until(over).await;
            return;
        };
        let begin = Instant::now() + round.pause;
        if begin >= over {
            sleep_until(over).await;
            return;
        }
        sleep_until(begin).await;
        let faults = round
            .faults
            .into_iter()
            .map(|(weak, way, delay, held)| async move {
                sleep(delay).await;
                commit(&weak, way, held, recorder).await;
            });
        futures::future::join_all(faults).await;
    }
}

/// Breaks one thing for a while.
async fn commit(weak: &Weak, way: Way, held: Duration, recorder: &Recorder) {
    let began = now();
    match &weak.thing {
        Thing::Program(part) => match way {
            Way::Freeze => {
                part.signal(Signal::STOP);
                sleep(held).await;
                part.signal(Signal::CONT);
            }
            way => {
                if way == Way::Restart {
                    part.end_within(PATIENCE).await;
                } else {
                    part.kill();
                }
                sleep(held).await;
                part.start();
                part.ready_within(PATIENCE).await;
            }
        },
        Thing::Link(proxy) => {
            match way {
                Way::Cut => proxy.conduct(Conduct::CUT),
                Way::CutForth | Way::CutBack => proxy.conduct(Conduct::Cut {
                    forth: way == Way::CutForth,
                    back: way == Way::CutBack,
                }),
                Way::Slow => proxy.conduct(Conduct::Slow {
                    delay: Duration::from_millis(150),
                    rate: 64 * 1024,
                }),
                Way::Refuse => proxy.conduct(Conduct::Refuse),
                _ => {}
            }
            if way == Way::Reset || way == Way::Refuse {
                proxy.reset();
            }
            sleep(held).await;
            if way == Way::Reset {
                proxy.reset();
            }
            proxy.conduct(Conduct::Pass);
        }
        Thing::Broker(nats) => {
            if way == Way::Kill {
                nats.kill().await;
                sleep(held).await;
                nats.restart().await;
            } else {
                nats.freeze().await;
                sleep(held).await;
                nats.thaw().await;
            }
        }
        Thing::Node(cluster, node) => {
            if way == Way::Kill {
                cluster.kill(*node).await;
                sleep(held).await;
                cluster.restart(*node).await;
            } else {
                cluster.freeze(*node).await;
                sleep(held).await;
                cluster.thaw(*node).await;
            }
        }
    }
    let fault = Fault {
        kind: format!("{} {}", way.name(), weak.sort),
        target: weak.name.clone(),
        began,
        ended: now(),
        deafens: weak.deafens.clone(),
        cuts: weak.cuts.clone(),
    };
    println!(
        "{} {}: {:.1} s",
        way.name(),
        fault.target,
        (fault.ended - fault.began) as f64 / 1_000.0
    );
    recorder.add(|history| history.faults.push(fault));
}
