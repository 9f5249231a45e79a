//! Event streams. Each write carries a sequence number, and its send time is kept under that number: when a subscriber receives the
//! event, the number gives the latency. Writer and subscribers are threads of one process, so one monotonic clock times both ends.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::Notify, time};

use super::{connection::Connection, document, target::Target};
use crate::{error::Result, progress, report::Latencies};

/// How many send times are kept: more writes than are ever in flight at once.
const SEQUENCES_MAX: u64 = 1 << 20;
/// Streams opened at the same time: fewer than the backlog of any listener.
const OPENING_MAX: usize = 64;
/// Read buffer of a stream: one event of a usual size. Every stream has one.
const READ_BYTES: usize = 2 << 10;

/// The send time of each numbered write.
#[derive(Debug)]
pub struct SendTimes {
    origin: Instant,
    next: AtomicU64,
    sent_ns: Box<[AtomicU64]>,
}

impl SendTimes {
    /// None sent yet.
    pub fn new() -> Arc<Self> {
        let sent_ns = (0..SEQUENCES_MAX).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { origin: Instant::now(), next: AtomicU64::new(0), sent_ns })
    }

    /// The number of the next write.
    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Records that the write with this number is sent now, and returns that instant.
    pub fn send(&self, sequence: u64) -> Instant {
        let now = Instant::now();
        let sent_ns = now.duration_since(self.origin).as_nanos() as u64;
        self.sent_ns[(sequence % SEQUENCES_MAX) as usize].store(sent_ns, Ordering::Release);
        now
    }

    /// How long before `now` the write with this number was sent.
    fn age(&self, sequence: u64, now: Instant) -> Duration {
        let sent_ns = self.sent_ns[(sequence % SEQUENCES_MAX) as usize].load(Ordering::Acquire);
        now.duration_since(self.origin).saturating_sub(Duration::from_nanos(sent_ns))
    }
}

/// What all subscribers together received.
#[derive(Debug)]
pub struct Arrivals {
    send_times: Arc<SendTimes>,
    latencies: RefCell<Latencies>,
    events: Cell<u64>,
    resyncs: Cell<u64>,
    closed: Cell<u64>,
    expected: Cell<Expected>,
    complete: Notify,
}

/// The event that all subscribers are waiting for.
#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    sequence: Option<u64>,
    missing: u64,
    last: Option<Instant>,
}

impl Arrivals {
    /// Nothing received yet.
    pub fn new(send_times: Arc<SendTimes>) -> Rc<Self> {
        Rc::new(Self {
            send_times,
            latencies: RefCell::new(Latencies::default()),
            events: Cell::new(0),
            resyncs: Cell::new(0),
            closed: Cell::new(0),
            expected: Cell::default(),
            complete: Notify::new(),
        })
    }

    /// Latencies of all events since this was last called.
    pub fn take_latencies(&self) -> Latencies {
        self.latencies.replace(Latencies::default())
    }

    /// Events received.
    pub fn events(&self) -> u64 {
        self.events.get()
    }

    /// Times that a subscriber was told to resynchronise.
    pub fn resyncs(&self) -> u64 {
        self.resyncs.get()
    }

    /// Streams that ended.
    pub fn closed(&self) -> u64 {
        self.closed.get()
    }

    /// Expects the event with this number at this many subscribers.
    pub fn expect(&self, sequence: u64, subscribers: u64) {
        self.expected.set(Expected { sequence: Some(sequence), missing: subscribers, last: None });
    }

    /// Waits until all subscribers have the expected event, at most for `timeout`. Returns when the last of them got it, and how
    /// many did not.
    pub async fn wait(&self, timeout: Duration) -> (Option<Instant>, u64) {
        let complete = async {
            while self.expected.get().missing > 0 {
                self.complete.notified().await;
            }
        };
        // `missing` tells whether it timed out.
        time::timeout(timeout, complete).await.ok();
        let expected = self.expected.get();
        (expected.last, expected.missing)
    }

    fn line(&self, line: &[u8], now: Instant) {
        if let Some(sequence) = line.strip_prefix(b"data:").and_then(document::sequence_in) {
            self.events.set(self.events.get() + 1);
            self.latencies.borrow_mut().record(self.send_times.age(sequence, now));
            let mut expected = self.expected.get();
            if expected.sequence == Some(sequence) && expected.missing > 0 {
                expected.missing -= 1;
                expected.last = Some(now);
                self.expected.set(expected);
                if expected.missing == 0 {
                    self.complete.notify_one();
                }
            }
        } else if line.starts_with(b"event: resync") {
            self.resyncs.set(self.resyncs.get() + 1);
        }
    }
}

/// Opens one stream per request; returns when the target has answered all of them. Bytes that came with a head are dropped: nothing
/// has been written yet.
pub async fn open(workload: &'static str, target: &Target, requests: Vec<Vec<u8>>) -> Result<Vec<TcpStream>> {
    let bar = progress::bar(workload, requests.len() as u64).with_message("streams open");
    let opening = requests.into_iter().map(|request| {
        let bar = bar.clone();
        async move {
            let connection = Connection::open(target.address).await?;
            let (stream, _greeting) = connection.into_stream(&request, 200).await?;
            bar.inc(1);
            Ok(stream)
        }
    });
    let opened = stream::iter(opening).buffer_unordered(OPENING_MAX).try_collect().await;
    bar.finish_and_clear();
    opened
}

/// Reads each stream until it ends, in a task of its own.
pub fn follow(streams: Vec<TcpStream>, arrivals: &Rc<Arrivals>) {
    for mut stream in streams {
        let arrivals = arrivals.clone();
        tokio::task::spawn_local(async move {
            let mut lines = Lines::default();
            let mut buffer = vec![0; READ_BYTES];
            // An error ends a stream as its end does. Both are counted, and make the run fail.
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                let now = Instant::now();
                lines.feed(&buffer[..read], |line| arrivals.line(line, now));
            }
            arrivals.closed.set(arrivals.closed.get() + 1);
        });
    }
}

/// Joins the bytes of several reads into lines. The sizes of HTTP chunks are lines too, and mean nothing. A server that split one
/// event into two chunks would break this; none of those measured does.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            if self.partial.is_empty() {
                each(&bytes[..end]);
            } else {
                self.partial.extend_from_slice(&bytes[..end]);
                each(&self.partial);
                self.partial.clear();
            }
            bytes = &bytes[end + 1..];
        }
        self.partial.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_are_cut() {
        let text = b"3\r\nid: 1\ndata: {}\n\n";
        for at in 0..text.len() {
            let mut seen = Vec::new();
            let mut lines = Lines::default();
            lines.feed(&text[..at], |line| seen.push(line.to_vec()));
            lines.feed(&text[at..], |line| seen.push(line.to_vec()));
            assert_eq!(seen, [&b"3\r"[..], b"id: 1", b"data: {}", b""], "cut at {at}");
        }
    }

    #[test]
    fn an_expected_event_is_complete_when_all_have_it() {
        let send_times = SendTimes::new();
        let arrivals = Arrivals::new(send_times.clone());
        let sequence = send_times.next();
        let sent = send_times.send(sequence);
        arrivals.expect(sequence, 2);
        let line = format!(r#"data: {{"value":{{"sent":{sequence}}}}}"#);
        arrivals.line(line.as_bytes(), sent + Duration::from_millis(1));
        assert_eq!(arrivals.expected.get().missing, 1);
        arrivals.line(br#"data: {"value":{"sent":99}}"#, sent);
        arrivals.line(line.as_bytes(), sent + Duration::from_millis(2));
        assert_eq!(arrivals.expected.get().missing, 0);
        assert_eq!(arrivals.expected.get().last, Some(sent + Duration::from_millis(2)));
        assert_eq!((arrivals.events(), arrivals.resyncs()), (3, 0));
    }
}
