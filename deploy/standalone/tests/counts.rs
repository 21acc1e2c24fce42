//! What a delivery and an idle socket cost, in counts that do not depend on the machine:
//! allocations, and bytes on the heap of the whole process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation of a test is a panic"
)]

mod house;

use std::{
    alloc::System,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::runtime::Runtime;

use house::{House, LIMIT, sign_up};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Listeners of the topic while messages are counted, and how many come for the second count.
const FEW: usize = 20;
const MORE: usize = 200;
/// Messages of each count. Nobody but their sender reads them: they fit into the kernel's
/// buffers.
const MESSAGES: usize = 200;

/// Of the server, for one message to one socket more. Where one is made for each delivery,
/// it is 1.
const ALLOCATIONS_PER_DELIVERY: f64 = 0.1;
/// Of the server, for one message, whoever it goes to: 240. With a request of HTTP around
/// its call it would be 313.
const ALLOCATIONS_PER_MESSAGE: f64 = 290.0;
/// Of the server, for a socket that is signed in and listens to one topic.
const BYTES_PER_SOCKET: f64 = 24.0 * 1024.0;

/// A phone that has nothing on the heap, and answers no heartbeat.
struct Socket(TcpStream);

impl Socket {
    fn sign_in(at: SocketAddr, token: &str) -> Self {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut socket = Self(stream);
        write!(
            socket.0,
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: {at}\r\n\
             connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        .unwrap();
        socket.wait_for(b"pingInterval");
        socket.say("40");
        socket.wait_for(b"40{");
        socket.say(&format!(r#"42["signin_request",{{"token":"{token}"}}]"#));
        socket.wait_for(br#""status":"ok""#);
        socket
    }

    /// Sends a text frame, masked with zeros.
    fn say(&mut self, text: &str) {
        let length = u16::try_from(text.len()).unwrap().to_be_bytes();
        let frame = [
            &[0x81, 0x80 | 126],
            &length[..],
            &[0; 4][..],
            text.as_bytes(),
        ];
        self.0.write_all(&frame.concat()).unwrap();
    }

    /// Reads until it has read this.
    fn wait_for(&mut self, what: &[u8]) {
        let (mut buffer, mut kept) = ([0; 4_096], 0);
        loop {
            let count = self.0.read(&mut buffer[kept..]).expect("an answer in time");
            assert!(count > 0, "the connection was closed");
            let read = &buffer[..kept + count];
            if read.windows(what.len()).any(|part| part == what) {
                return;
            }
            let (from, to) = (read.len().saturating_sub(what.len()), read.len());
            buffer.copy_within(from..to, 0);
            kept = to - from;
        }
    }

    /// Sends so many messages, each after the one before was answered.
    fn talk(&mut self, messages: usize, stamp: &str) {
        for number in 0..messages {
            self.say(&format!(
                r#"42["message_events",{{"topic_id":1,"body":"salom, haydovchilar","stamp_id":"{stamp}-{number}."}}]"#
            ));
            self.wait_for(format!("{stamp}-{number}.").as_bytes());
        }
    }
}

/// Allocations while so many messages are sent, without those of the sender itself, and of
/// what goes on beside in as much time.
fn allocations(sender: &mut Socket, stamp: &str) -> f64 {
    // Two sentences and a frame for each message.
    let own = 3 * MESSAGES;
    let (region, began) = (Region::new(HEAP), Instant::now());
    sender.talk(MESSAGES, stamp);
    let (talking, took) = (region.change(), began.elapsed());
    let region = Region::new(HEAP);
    std::thread::sleep(took);
    let beside = region.change().allocations + own;
    talking.allocations.saturating_sub(beside) as f64
}

#[test]
#[allow(clippy::cast_precision_loss, reason = "they are small")]
fn a_delivery_allocates_nothing_and_an_idle_socket_keeps_little() {
    let runtime = Runtime::new().unwrap();
    let data = tempfile::tempdir().unwrap();
    let house = runtime.block_on(House::open(data.path(), |config| {
        config.gateway.rate_limits.enabled = false;
    }));
    let house = house.unwrap();
    let at = house.at.phones;
    let token = runtime.block_on(sign_up(at, 1));

    let mut sender = Socket::sign_in(at, &token);
    let mut listeners: Vec<_> = (1..FEW).map(|_| Socket::sign_in(at, &token)).collect();
    sender.talk(20, "warm");
    let few = allocations(&mut sender, "few");

    listeners.reserve(MORE);
    let region = Region::new(HEAP);
    listeners.extend((0..MORE).map(|_| Socket::sign_in(at, &token)));
    let change = region.change();
    let kept = change.bytes_allocated as f64 - change.bytes_deallocated as f64;
    let per_socket = kept / MORE as f64;

    sender.talk(20, "warm again");
    let more = allocations(&mut sender, "more");
    let per_delivery = (more - few) / (MESSAGES * MORE) as f64;
    let per_message = few / MESSAGES as f64;
    println!(
        "{per_delivery:.3} allocations per delivery, {per_message:.0} per message, {per_socket:.0} bytes per socket"
    );
    assert!(per_delivery < ALLOCATIONS_PER_DELIVERY, "{per_delivery}");
    assert!(per_message < ALLOCATIONS_PER_MESSAGE, "{per_message}");
    assert!(per_socket < BYTES_PER_SOCKET, "{per_socket}");
    drop((sender, listeners));
    runtime.block_on(house.close());
}
