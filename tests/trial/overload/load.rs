//! Messages without end, from many sockets: so many under way at a time, or so many a
//! second whatever becomes of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use tests::engine::Ws;
use tests::history::{Moment, now};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::figures::{Answer, Span};
use crate::crowd::{Heard, Person, connect, message, understand};
use crate::stack::Stack;

/// Who was refused does not try again at once.
const REST: Duration = Duration::from_millis(500);

/// The sockets, signed in.
pub(super) struct Load {
    /// When the next message of a socket is due.
    orders: Vec<mpsc::UnboundedSender<Moment>>,
    under_way: watch::Sender<usize>,
    told: Arc<Mutex<Told>>,
}

/// What all sockets were told.
#[derive(Default)]
struct Told {
    /// When those without an answer were due.
    open: HashMap<String, Moment>,
    answers: Vec<Answer>,
    /// Why sockets ended.
    ended: Vec<String>,
}

impl Load {
    pub(super) async fn connect(stack: &Stack, people: Vec<Person>) -> Self {
        let (under_way, _) = watch::channel(0);
        let told = Arc::new(Mutex::new(Told::default()));
        let count = people.len();
        let sockets = stream::iter(people.into_iter().enumerate()).map(|(number, person)| {
            let door = stack.doors[number % stack.doors.len()];
            let (order, orders) = mpsc::unbounded_channel();
            let socket = Socket {
                number,
                count,
                person,
                said: 0,
                open: 0,
                rests_until: Instant::now(),
                orders,
                under_way: under_way.subscribe(),
                told: Arc::clone(&told),
            };
            async move {
                let ws = socket.sign_in(door).await.unwrap();
                tokio::spawn(socket.run(ws));
                order
            }
        });
        let orders = sockets.buffered(16).collect().await;
        Self {
            orders,
            under_way,
            told,
        }
    }

    /// From now on each answer is followed by the next message, so that so many are under way.
    pub(super) fn keep_under_way(&self, count: usize) {
        self.under_way.send_replace(count);
    }

    /// So many messages a second for a time, whatever becomes of them.
    pub(super) async fn offer(&self, rate: f64, length: Duration) {
        let began = Instant::now();
        let mut ticks = interval(Duration::from_millis(5));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut orders = self.orders.iter().cycle();
        let mut count = 0.0;
        while began.elapsed() < length {
            ticks.tick().await;
            let due = began.elapsed().as_secs_f64() * rate;
            while count < due {
                count += 1.0;
                if let Some(order) = orders.next() {
                    let _ended = order.send(now());
                }
            }
        }
    }

    /// Waits until everything is answered; how many are not in time.
    pub(super) async fn settle(&self, limit: Duration) -> usize {
        let began = Instant::now();
        loop {
            let open = self.told().open.len();
            if open == 0 || began.elapsed() > limit {
                return open;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What became of the messages of a span of time.
    pub(super) fn span(&self, began: Moment, ended: Moment) -> Span {
        let told = self.told();
        let open = told.open.values().filter(|at| (began..ended).contains(*at));
        Span::of(&told.answers, open.count(), began, ended)
    }

    pub(super) fn ended(&self) -> Vec<String> {
        self.told().ended.clone()
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Socket {
    number: usize,
    /// How many there are.
    count: usize,
    person: Person,
    said: u64,
    /// How many have no answer.
    open: usize,
    /// After a failure, where it has a share of what is under way.
    rests_until: Instant,
    orders: mpsc::UnboundedReceiver<Moment>,
    under_way: watch::Receiver<usize>,
    told: Arc<Mutex<Told>>,
}

impl Socket {
    async fn sign_in(&self, door: SocketAddr) -> Result<Ws, String> {
        let mut ws = connect(door, &self.person).await?;
        loop {
            let packet = ws.packet().await.ok_or("the connection was closed")?;
            match understand(&packet)? {
                Heard::SignedIn => return Ok(ws),
                Heard::Refused(code) => return Err(code),
                _ => {}
            }
        }
    }

    async fn run(mut self, mut ws: Ws) {
        if let Err(why) = self.work(&mut ws).await {
            self.told().ended.push(why);
        }
    }

    async fn work(&mut self, ws: &mut Ws) -> Result<(), String> {
        let mine = format!("\"stamp_id\":\"{}-", self.person.id);
        loop {
            tokio::select! {
                packet = ws.packet_within(Duration::from_secs(3_600)) => {
                    let packet = packet?.ok_or("the connection was closed")?;
                    // Most of what comes is what others said.
                    if packet.contains(&mine) {
                        self.hear(&packet)?;
                    }
                }
                order = self.orders.recv() => match order {
                    Some(due) => self.say(ws, due).await?,
                    None => return Ok(()),
                },
                changed = self.under_way.changed() => if changed.is_err() {
                    return Ok(());
                },
                () = sleep_until(self.rests_until), if self.has_room() => {}
            }
            while self.has_room() && self.rests_until <= Instant::now() {
                self.say(ws, now()).await?;
            }
        }
    }

    /// Whether less than its share is under way.
    fn has_room(&self) -> bool {
        let all = *self.under_way.borrow();
        self.open < (all + self.count - 1 - self.number) / self.count
    }

    async fn say(&mut self, ws: &mut Ws, due: Moment) -> Result<(), String> {
        self.said += 1;
        self.open += 1;
        let stamp = format!("{}-{}", self.person.id, self.said);
        let packet = message(self.person.topic, &stamp);
        self.told().open.insert(stamp, due);
        ws.send(&packet).await
    }

    fn hear(&mut self, packet: &str) -> Result<(), String> {
        let (stamp, failed) = match understand(packet)? {
            Heard::Sent(message) => (message.stamp, None),
            Heard::Failed { stamp, code } => (stamp, Some(code)),
            _ => return Ok(()),
        };
        if failed.is_some() {
            self.rests_until = Instant::now() + REST;
        }
        let answered = now();
        let mut told = self.told();
        let Some(due) = told.open.remove(&stamp) else {
            // What failed because nothing was known of it may have been sent after all.
            return match failed {
                None => Ok(()),
                Some(_) => Err(format!("{stamp} was answered twice")),
            };
        };
        told.answers.push(Answer {
            due,
            answered,
            failed,
        });
        drop(told);
        self.open -= 1;
        Ok(())
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
