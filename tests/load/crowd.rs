//! All connections to one target, on one thread.
//!
//! A connection has a task that reads, into a buffer that all share; what has to be written
//! is written at once by whoever finds out.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use rand::distr::Distribution as _;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::Zipf;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::dialect::{Dialect, Said};
use crate::ledger::{Ledger, Listener, Span};
use crate::scenario::{Load, Scenario};
use crate::websocket::{self, Frames, Opcode};

/// The most that is read at once.
const READ: usize = 256 << 10;
/// Connections that are opened at a time where nothing else is measured.
pub(crate) const AT_A_TIME: usize = 64;
/// The longest that signing in may take.
const SIGN_IN_LIMIT: Duration = Duration::from_secs(60);
/// How exact an open loop is; what is due between two ticks is sent with the second.
const TICK: Duration = Duration::from_millis(1);

/// Who connects, and to what.
#[derive(Clone)]
pub(crate) struct Guests {
    pub(crate) address: SocketAddr,
    pub(crate) dialect: Dialect,
    /// Ids of the topics.
    pub(crate) topics: Vec<i64>,
    /// The token of each connection.
    pub(crate) tokens: Vec<String>,
    /// The user of each connection.
    pub(crate) users: Vec<i64>,
}

/// All connections to one target.
pub(crate) struct Crowd {
    dialect: Dialect,
    scenario: Scenario,
    guests: Guests,
    doors: RefCell<Vec<Rc<Door>>>,
    /// The tasks of the connections, which hold them open.
    readers: RefCell<Vec<AbortHandle>>,
    ledger: RefCell<Ledger>,
    choice: RefCell<Choice>,
    buffer: RefCell<Vec<u8>>,
    body: String,
    /// Messages are followed by others.
    goes_on: Cell<bool>,
    /// Connections may end.
    leaving: Cell<bool>,
}

/// Which topic is next, and who sends to it.
struct Choice {
    random: SmallRng,
    zipf: Option<Zipf<f64>>,
    /// Who of each topic's senders is next.
    turns: Vec<usize>,
}

impl Choice {
    fn new(scenario: &Scenario) -> Self {
        let skewed = scenario.skew > 0.0;
        Self {
            random: SmallRng::seed_from_u64(1),
            zipf: skewed
                .then(|| Zipf::new(scenario.topics as f64, scenario.skew).ok())
                .flatten(),
            turns: vec![0; scenario.topics],
        }
    }

    /// A topic, and the connection that sends to it.
    fn next(&mut self, scenario: &Scenario) -> (usize, usize) {
        let topic = match &self.zipf {
            Some(zipf) => zipf.sample(&mut self.random) as usize - 1,
            None => self.random.random_range(0..scenario.topics),
        };
        let turn = self.turns.get_mut(topic).map_or(0, |turn| {
            *turn = (*turn + 1) % scenario.senders;
            *turn
        });
        (
            topic,
            scenario.members_of(topic).nth(turn).unwrap_or_default(),
        )
    }
}

impl Crowd {
    /// Connects everybody and signs them in, so many at a time.
    pub(crate) async fn gather(
        guests: Guests,
        scenario: &Scenario,
        at_a_time: usize,
    ) -> Result<Rc<Self>, String> {
        let crowd = Rc::new(Self {
            dialect: guests.dialect,
            scenario: scenario.clone(),
            doors: RefCell::default(),
            readers: RefCell::default(),
            ledger: RefCell::new(Ledger::new(&guests.topics, scenario.members)),
            choice: RefCell::new(Choice::new(scenario)),
            buffer: RefCell::new(vec![0; READ]),
            body: "x".repeat(scenario.body),
            guests,
            goes_on: Cell::new(false),
            leaving: Cell::new(false),
        });
        let mut of_each = vec![Vec::new(); scenario.connections];
        for topic in 0..scenario.topics {
            for member in scenario.members_of(topic) {
                of_each[member].push(topic);
            }
        }
        let guests = &crowd.guests;
        let arrivals = of_each.into_iter().zip(guests.tokens.clone()).enumerate();
        let doors: Vec<Rc<Door>> = stream::iter(arrivals)
            .map(|(number, (topics, token))| {
                let listener = Listener::new(number, topics);
                let arrives = Rc::clone(&crowd).arrive(guests.address, listener, token);
                async move {
                    arrives
                        .await
                        .map_err(|why| format!("connection {number}: {why}"))
                }
            })
            .buffered(at_a_time)
            .try_collect()
            .await?;
        crowd.doors.replace(doors);
        Ok(crowd)
    }

    async fn arrive(
        self: Rc<Self>,
        address: SocketAddr,
        listener: Listener,
        token: String,
    ) -> Result<Rc<Door>, String> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| error.to_string())?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let (mut read, mut write) = stream.into_split();
        let request = websocket::request(self.dialect.path());
        let written = write.write_all(request.as_bytes()).await;
        written.map_err(|error| error.to_string())?;
        let mut begun = Vec::new();
        let opened = loop {
            let count = read
                .read_buf(&mut begun)
                .await
                .map_err(|error| error.to_string())?;
            match websocket::opened(&begun)? {
                Some(length) => break length,
                None if count == 0 => return Err("ended in the handshake".to_owned()),
                None => {}
            }
        };
        let door = Rc::new(Door {
            write,
            waiting: RefCell::default(),
        });
        if let Some(greeting) = self.dialect.greeting() {
            door.say(greeting);
        }
        let (signed_in, mut is_signed_in) = watch::channel(None);
        let connection = Connection {
            crowd: Rc::clone(&self),
            read,
            door: Rc::clone(&door),
            frames: Frames::default(),
            listener,
            token,
            signed_in,
        };
        let reader = tokio::task::spawn_local(connection.run(begun.split_off(opened)));
        self.readers.borrow_mut().push(reader.abort_handle());
        let told = tokio::time::timeout(SIGN_IN_LIMIT, is_signed_in.wait_for(Option::is_some));
        match told.await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(Ok(())).map(|()| door),
            _ => Err("the sign-in is not answered".to_owned()),
        }
    }

    /// Lets the load begin, with messages that are due from now on.
    pub(crate) fn start(self: &Rc<Self>, load: Load) {
        self.goes_on.set(true);
        match load {
            Load::Idle => {}
            Load::Outstanding(count) => self.send(count, Instant::now()),
            Load::PerSecond(rate) => {
                let crowd = Rc::clone(self);
                tokio::task::spawn_local(regularly(rate, move |due| {
                    crowd.send(1, due);
                    crowd.goes_on.get()
                }));
            }
            Load::TypingPerSecond(rate) => {
                let crowd = Rc::clone(self);
                tokio::task::spawn_local(regularly(rate, move |_| {
                    crowd.tell_typing();
                    crowd.goes_on.get()
                }));
            }
        }
    }

    /// Lets nothing follow what is under way, and waits for that.
    pub(crate) async fn settle(&self, limit: Duration) -> Result<(), String> {
        self.goes_on.set(false);
        let began = Instant::now();
        loop {
            let left = self.ledger.borrow().on_their_way();
            if left == 0 {
                return Ok(());
            }
            if began.elapsed() > limit {
                return Err(format!(
                    "{left} messages have not reached everybody after {limit:?}"
                ));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Begins a span of time; what the one before had.
    pub(crate) fn begin_span(&self) -> Span {
        self.ledger.borrow_mut().begin_span()
    }

    /// Messages and deliveries of the span so far.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        self.ledger.borrow().so_far()
    }

    /// What was wrong so far.
    pub(crate) fn violations(&self) -> (Vec<String>, u64) {
        let ledger = self.ledger.borrow();
        let (kept, count) = ledger.violations();
        (kept.to_vec(), count)
    }

    /// Lets go of all connections; who may come back.
    pub(crate) fn leave(&self) -> Guests {
        self.goes_on.set(false);
        self.leaving.set(true);
        for reader in self.readers.take() {
            reader.abort();
        }
        self.doors.take();
        self.guests.clone()
    }

    fn tell_typing(&self) {
        let (topic, sender) = self.choice.borrow_mut().next(&self.scenario);
        let id = self.guests.topics.get(topic).copied().unwrap_or_default();
        let user = self.guests.users.get(sender).copied().unwrap_or_default();
        if let Some(door) = self.doors.borrow().get(sender) {
            door.say(&self.dialect.typing(id, user));
        }
    }

    fn send(&self, count: usize, due: Instant) {
        for _ in 0..count {
            let (topic, sender) = self.choice.borrow_mut().next(&self.scenario);
            let number = self.ledger.borrow_mut().send(topic, sender, due);
            let id = self.guests.topics.get(topic).copied().unwrap_or_default();
            if let Some(door) = self.doors.borrow().get(sender) {
                door.say(&self.dialect.message(id, number, &self.body));
            }
        }
    }
}

/// Does something so often a second, whatever becomes of it, until it says that it is over;
/// tells it when it was due.
async fn regularly(rate: f64, once: impl Fn(Instant) -> bool) {
    let (began, mut done) = (Instant::now(), 0_u64);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        // The first is due at once.
        let due = (began.elapsed().as_secs_f64() * rate) as u64 + 1;
        while done < due {
            if !once(began + Duration::from_secs_f64(done as f64 / rate)) {
                return;
            }
            done += 1;
        }
    }
}

/// The way out of a connection.
struct Door {
    write: OwnedWriteHalf,
    /// What the kernel has not taken.
    waiting: RefCell<Vec<u8>>,
}

impl Door {
    fn say(self: &Rc<Self>, packet: &str) {
        self.frame(Opcode::Text, packet.as_bytes());
    }

    /// Writes a frame; what does not fit is written as there is room. Of a connection that
    /// is gone its reader hears.
    fn frame(self: &Rc<Self>, opcode: Opcode, payload: &[u8]) {
        let mut waiting = self.waiting.borrow_mut();
        let is_waited_for = !waiting.is_empty();
        websocket::write(&mut waiting, opcode, payload);
        if is_waited_for {
            return;
        }
        self.push(&mut waiting);
        if !waiting.is_empty() {
            let door = Rc::clone(self);
            tokio::task::spawn_local(async move {
                while !door.waiting.borrow().is_empty() && door.write.writable().await.is_ok() {
                    door.push(&mut door.waiting.borrow_mut());
                }
            });
        }
    }

    fn push(&self, waiting: &mut Vec<u8>) {
        while !waiting.is_empty() {
            match self.write.try_write(waiting) {
                Ok(count) => drop(waiting.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => waiting.clear(),
            }
        }
    }
}

/// The way in.
struct Connection {
    crowd: Rc<Crowd>,
    read: OwnedReadHalf,
    door: Rc<Door>,
    frames: Frames,
    listener: Listener,
    token: String,
    signed_in: watch::Sender<Option<Result<(), String>>>,
}

impl Connection {
    async fn run(mut self, begun: Vec<u8>) {
        let mut outcome = self.take(&begun);
        while outcome.is_ok() {
            outcome = poll_fn(|cx| self.poll_take(cx)).await;
        }
        let why = outcome.err().unwrap_or_default();
        if self.signed_in.borrow().is_none() {
            self.signed_in.send_replace(Some(Err(why)));
        } else if !self.crowd.leaving.get() {
            let mut ledger = self.crowd.ledger.borrow_mut();
            ledger.violated(format!("a connection was cut off: {why}"));
        }
    }

    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        let crowd = Rc::clone(&self.crowd);
        let mut buffer = crowd.buffer.borrow_mut();
        let mut into = ReadBuf::new(&mut buffer);
        let read = ready!(Pin::new(&mut self.read).poll_read(cx, &mut into));
        Poll::Ready(match read {
            Ok(()) if into.filled().is_empty() => Err("ended".to_owned()),
            Ok(()) => self.take(into.filled()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Takes what was read.
    fn take(&mut self, read: &[u8]) -> Result<(), String> {
        let now = Instant::now();
        let mut over = 0;
        let mut frames = std::mem::take(&mut self.frames);
        frames.read(read, |opcode, frame| match opcode {
            Opcode::Text => {
                for packet in self.crowd.dialect.packets(frame) {
                    over += self.take_packet(packet, now)?;
                }
                Ok(())
            }
            Opcode::Ping => {
                self.door.frame(Opcode::Pong, frame);
                Ok(())
            }
            Opcode::Pong => Ok(()),
            Opcode::Close | Opcode::Binary => Err(format!("{opcode:?}")),
        })?;
        self.frames = frames;
        if over > 0
            && self.crowd.goes_on.get()
            && let Load::Outstanding(_) = self.crowd.scenario.load
        {
            self.crowd.send(over, now);
        }
        Ok(())
    }

    /// How many messages are over by this.
    fn take_packet(&mut self, packet: &[u8], now: Instant) -> Result<usize, String> {
        let dialect = self.crowd.dialect;
        let understand = |packet: &[u8], topics| dialect.understand(packet, topics);
        let (over, said) = {
            let mut ledger = self.crowd.ledger.borrow_mut();
            ledger.hear(&mut self.listener, packet, now, understand)?
        };
        match said {
            Some(Said::Open) => {
                for packet in dialect.sign_in(&self.token) {
                    self.door.say(&packet);
                }
            }
            Some(Said::SignedIn) => {
                self.signed_in.send_replace(Some(Ok(())));
            }
            Some(Said::Heartbeat(answer)) => self.door.say(answer),
            Some(Said::Failed(_, why)) => return Err(why),
            Some(Said::Typing) => self.crowd.ledger.borrow_mut().typed(now),
            Some(Said::Message(_) | Said::Other) | None => {}
        }
        Ok(over)
    }
}
