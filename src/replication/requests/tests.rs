//! Requests between two channels whose messages a test carries, between two links, and between two nodes.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::FutureExt;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::handshake::server::{Request, Response},
};

use super::{
    channel::{Channel, Service},
    *,
};
use crate::{
    core::{
        clock::Timestamp,
        digest::DigestKey,
        json::Value,
        name::{Key, TableName},
        protocol::message::{MESSAGE_BYTES, Message, Row, Rows},
        register::Register,
    },
    replication::{
        Options, Replication,
        link::{
            Link,
            admission::AdmissionControl,
            connect::{SystemNetwork, subprotocol},
            establish::{self, Local},
            handshake::{ClusterIdentity, Hello},
            io,
            secret::Secrets,
        },
    },
    storage::{self, Durability, Environment, Store, commit::timestamps::Timestamps},
};
use std::sync::Arc;

use RequestKind::{Client, Consensus};

const NOW_MS: u64 = 1_763_689_000_000;
const SECRET: &str = "sixteen letters!";
/// Longer than anything here takes.
const PATIENT: Duration = Duration::from_secs(30);

/// Does what the body says.
#[derive(Default)]
struct Script {
    begun: AtomicUsize,
    /// Calls that were dropped before they answered.
    dropped: Arc<AtomicUsize>,
    /// Lets all calls of `wait` answer.
    released: Notify,
    is_released: std::sync::atomic::AtomicBool,
    changed: Arc<Notify>,
}

struct CountDrop(Arc<AtomicUsize>, Arc<Notify>, bool);

impl Drop for CountDrop {
    fn drop(&mut self) {
        if !self.2 {
            self.0.fetch_add(1, Ordering::SeqCst);
            self.1.notify_waiters();
        }
    }
}

impl Script {
    fn release(&self) {
        self.is_released.store(true, Ordering::SeqCst);
        self.released.notify_waiters();
    }

    /// Waits until so many calls have begun and been dropped.
    async fn reaches(&self, begun: usize, dropped: usize) {
        let reaching = async {
            loop {
                let changed = self.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                let reached = (self.begun.load(Ordering::SeqCst), self.dropped.load(Ordering::SeqCst));
                if reached == (begun, dropped) {
                    return;
                }
                changed.await;
            }
        };
        if timeout(PATIENT, reaching).await.is_err() {
            panic!("{:?} and not {begun} begun, {dropped} dropped", (&self.begun, &self.dropped));
        }
    }
}

/// A service that is shared with the test.
struct Shared(Arc<Script>);

impl RequestService for Shared {
    fn call(
        &self,
        from: NodeId,
        kind: RequestKind,
        body: Vec<u8>,
    ) -> BoxFuture<'static, std::result::Result<Vec<u8>, String>> {
        let script = self.0.clone();
        async move {
            let mut counts = CountDrop(script.dropped.clone(), script.changed.clone(), false);
            script.begun.fetch_add(1, Ordering::SeqCst);
            script.changed.notify_waiters();
            let answer = match body.as_slice() {
                b"who" => Ok(format!("{from} {}", kind.name()).into_bytes()),
                b"fail" => Err("it\nwent wrong".to_owned()),
                b"panic" => panic!("as the test wants"),
                body if body.starts_with(b"wait") => {
                    let released = script.released.notified();
                    let mut released = std::pin::pin!(released);
                    released.as_mut().enable();
                    if !script.is_released.load(Ordering::SeqCst) {
                        released.await;
                    }
                    Ok(body.to_vec())
                }
                body => Ok(body.to_vec()),
            };
            counts.2 = true;
            answer
        }
        .boxed()
    }
}

/// The channel of node 1 to node 2 and back, and what node 2 does.
fn channels() -> (Arc<Channel>, Arc<Channel>, Arc<Script>) {
    let script = Arc::new(Script::default());
    let service = Service::default();
    assert!(service.set(Arc::new(Shared(script.clone()))).is_ok());
    let near = Arc::new(Channel::new(NodeId(2), Service::default()));
    let far = Arc::new(Channel::new(NodeId(1), service));
    (near, far, script)
}

/// Carries messages from one channel to the other, for as long as the test runs.
fn carry(from: &Arc<Channel>, to: &Arc<Channel>) {
    let (from, to) = (from.clone(), to.clone());
    tokio::spawn(async move {
        loop {
            assert_eq!(to.receive(from.next().await).expect("as it should be"), None);
        }
    });
}

fn connected() -> (Arc<Channel>, Arc<Channel>, Arc<Script>) {
    let (near, far, script) = channels();
    carry(&near, &far);
    carry(&far, &near);
    (near, far, script)
}

/// Begins a request.
fn ask(channel: &Arc<Channel>, kind: RequestKind, body: &[u8]) -> tokio::task::JoinHandle<Result> {
    let (channel, body) = (channel.clone(), body.to_vec());
    tokio::spawn(async move { channel.request(kind, body, PATIENT).await })
}

type Result = std::result::Result<Vec<u8>, RequestError>;

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(PATIENT, waiting).await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn a_request_comes_back_with_its_response_or_its_failure() {
    let (near, far, _script) = connected();
    let request = |body: &[u8]| near.request(Client, body.to_vec(), PATIENT);
    assert_eq!(request(b"who").await, Ok(b"0000000000000001 client".to_vec()));
    assert_eq!(request(b"").await, Ok(Vec::new()));
    assert_eq!(request(b"fail").await, Err(RequestError::Failed("it went wrong".into())));
    let error = request(b"panic").await.expect_err("it panics");
    assert!(matches!(error, RequestError::NoAnswer(_)) && error.is_outcome_unknown(), "{error}");
    assert_eq!(request(b"who").await, Ok(b"0000000000000001 client".to_vec()), "after a panic");
    let figures = near.figures()[Client.index()];
    assert_eq!((figures.requests, figures.failed, figures.in_flight), (5, 2, 0));
    assert_eq!((figures.sent_bytes, figures.received_bytes), (15, 46));
    let theirs = far.figures()[Client.index()];
    assert_eq!((theirs.received, theirs.received_bytes, theirs.sent_bytes), (5, 15, 46));
    assert_eq!(near.figures()[Consensus.index()], RequestFigures::default());
}

#[tokio::test]
async fn many_requests_at_once_each_get_their_own_response() {
    let (near, _far, script) = connected();
    let waiting: Vec<_> =
        (0..200).map(|number| ask(&near, Client, format!("wait{number}").as_bytes())).collect();
    script.reaches(200, 0).await;
    assert_eq!(near.figures()[Client.index()].in_flight, 200);
    script.release();
    for (number, answer) in waiting.into_iter().enumerate() {
        assert_eq!(answer.await.expect("runs"), Ok(format!("wait{number}").into_bytes()));
    }
}

#[tokio::test]
async fn a_dropped_request_is_cancelled_at_the_other_node() {
    let (near, _far, script) = connected();
    let dropped = ask(&near, Client, b"wait");
    let kept = ask(&near, Client, b"wait on");
    script.reaches(2, 0).await;
    dropped.abort();
    script.reaches(2, 1).await;
    script.release();
    assert_eq!(kept.await.expect("runs"), Ok(b"wait on".to_vec()));
    let figures = near.figures()[Client.index()];
    assert_eq!((figures.failed, figures.in_flight), (1, 0));
}

#[tokio::test]
async fn what_was_never_sent_is_told_apart_from_what_may_have_happened() {
    let (near, far, script) = channels();
    let short = Duration::from_millis(5);
    let unsent = near.request(Client, b"wait".to_vec(), short).await;
    assert_eq!(unsent, Err(RequestError::NotSentInTime(short)));
    assert_eq!(near.take(), None, "it will not be sent later");

    let late = near.request(Client, b"wait".to_vec(), short);
    let carried = async { far.receive(near.next().await).expect("a request") };
    let (late, _) = tokio::join!(late, carried);
    assert_eq!(late, Err(RequestError::TimedOut(short)));
    script.reaches(1, 0).await;
    far.receive(near.take().expect("a cancellation")).expect("a cancellation");
    script.reaches(1, 1).await;

    let (sent, unsent) = (ask(&near, Client, b"wait"), ask(&near, Consensus, b"wait"));
    until("both are queued", || near.figures().iter().all(|figures| figures.in_flight == 1)).await;
    assert!(matches!(near.take(), Some(Message::Request { kind: Consensus, .. })), "consensus goes first");
    near.end("a reason");
    assert_eq!(sent.await.expect("runs"), Err(RequestError::NoLink("a reason".into())));
    assert_eq!(unsent.await.expect("runs"), Err(RequestError::LinkEnded("a reason".into())));
    let later = near.request(Client, b"wait".to_vec(), PATIENT).await;
    assert_eq!(later, Err(RequestError::NoLink("a reason".into())));
    let is_unknown = |error: RequestError| error.is_outcome_unknown();
    assert!(is_unknown(RequestError::LinkEnded(String::new())) && is_unknown(RequestError::TimedOut(short)));
    assert!(
        !is_unknown(RequestError::NoLink(String::new())) && !is_unknown(RequestError::NotSentInTime(short))
    );
}

#[tokio::test]
async fn the_end_of_a_link_stops_what_it_serves_and_sends_what_is_answered() {
    let (near, far, script) = channels();
    let (answered, _waits) = (ask(&near, Client, b"quick"), ask(&near, Client, b"wait"));
    for _ in 0..2 {
        far.receive(timeout(PATIENT, near.next()).await.expect("queued")).expect("a request");
    }
    script.reaches(2, 0).await;
    let response = timeout(PATIENT, far.next()).await.expect("the quick response");
    far.end("stopping");
    script.reaches(2, 1).await;
    assert_eq!(far.take(), None);
    near.receive(response).expect("a response");
    assert_eq!(answered.await.expect("runs"), Ok(b"quick".to_vec()));
}

#[tokio::test]
async fn limits_hold_for_each_kind_and_free_themselves() {
    let (near, _far, script) = connected();
    let limit = Limit::of(Client);
    let waiting: Vec<_> = (0..limit.count).map(|_| ask(&near, Client, b"wait")).collect();
    script.reaches(limit.count, 0).await;
    let refused = near.request(Client, b"one more".to_vec(), PATIENT).await;
    assert_eq!(refused, Err(RequestError::TooMany(Client)));
    assert_eq!(near.request(Consensus, b"not held up".to_vec(), PATIENT).await, Ok(b"not held up".to_vec()));
    script.release();
    for answer in waiting {
        assert_eq!(answer.await.expect("runs"), Ok(b"wait".to_vec()));
    }
    assert_eq!(near.request(Client, b"again".to_vec(), PATIENT).await, Ok(b"again".to_vec()));
}

#[tokio::test]
async fn bytes_are_limited_but_one_long_request_goes_alone() {
    let (near, _far, script) = connected();
    let limit = Limit::of(Client).bytes;
    let long = vec![b'w'; limit + 1];
    assert_eq!(near.request(Client, long.clone(), PATIENT).await, Ok(long.clone()));
    let waits = ask(&near, Client, b"wait");
    script.reaches(2, 0).await;
    assert_eq!(near.request(Client, long, PATIENT).await, Err(RequestError::TooMany(Client)));
    script.release();
    assert!(waits.await.expect("runs").is_ok());
    let bytes = REQUEST_BYTES_MAX + 1;
    let error = near.request(Client, vec![0; bytes], PATIENT).await.expect_err("too long");
    assert_eq!(error, RequestError::TooLarge { bytes });
    assert!(error.to_string().contains(&REQUEST_BYTES_MAX.to_string()), "{error}");
}

/// The other node holds a requester to the limits, and bounds what it keeps for one that reads no responses.
#[tokio::test]
async fn a_requester_beyond_its_limit_is_told_busy_and_in_the_end_cut_off() {
    let (_near, far, script) = channels();
    let limit = Limit::of(Consensus).count as u64;
    let request = |id| far.receive(Message::Request { id, kind: Consensus, body: b"wait".as_slice().into() });
    for id in 1..=2 * limit {
        assert_eq!(request(id), Ok(None));
    }
    script.reaches(limit as usize, 0).await;
    let refusal = far.take();
    assert_eq!(refusal, Some(Message::Response { id: limit + 1, body: Err(RequestFailure::Busy) }));
    assert_eq!(request(2 * limit + 1), Ok(None), "one refusal was read");
    assert!(request(2 * limit + 2).is_err(), "none was read");
    // A cancellation makes room: for a refused request, and for one that is served.
    for id in [limit + 2, 1] {
        assert_eq!(far.receive(Message::Cancel { id }), Ok(None));
        assert_eq!(request(10 * limit + id), Ok(None));
    }
    script.reaches(limit as usize + 1, 1).await;
    assert!(request(2).is_err(), "a number is used once");
}

#[tokio::test]
async fn a_node_without_a_service_says_so() {
    let (near, far, _script) = connected();
    // Node 1 has none.
    let answer = far.request(Client, b"who".to_vec(), PATIENT).await;
    assert_eq!(answer, Err(RequestError::NotServed));
    assert_eq!(near.figures()[Client.index()].received, 1);
}

// Links.

async fn link_pair() -> (Link, Link) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let near = local(1);
    let dialing = async {
        let stream = tokio::net::TcpStream::connect(address).await.expect("connects");
        let key = near.secrets.link_keys()[0];
        establish::initiate(Box::new(stream), address, "reached:1", &key, &near).await.expect("a link")
    };
    let answering = async {
        let (stream, remote) = listener.accept().await.expect("a connection");
        let admission = AdmissionControl::new(local(2).secrets).admit(remote).expect("admitted");
        let stream = upgraded(stream).await;
        establish::accept(Box::new(stream), remote, admission, &local(2)).await.expect("a link")
    };
    tokio::join!(dialing, answering)
}

/// A connection after the upgrade to a WebSocket, as the HTTP server hands it over.
async fn upgraded(stream: tokio::net::TcpStream) -> tokio::net::TcpStream {
    #[expect(clippy::result_large_err, reason = "the type is the library's")]
    let accept_upgrade = |_: &Request, mut response: Response| {
        let protocol = subprotocol().parse().expect("a header value");
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    stream.set_nodelay(true).expect("an option");
    accept_hdr_async(stream, accept_upgrade).await.expect("an upgrade").into_inner()
}

fn local(node: u64) -> Local {
    Local {
        hello: Hello {
            node: NodeId(node),
            incarnation: 1,
            cluster: ClusterIdentity { id: 1, linked: true, digest_key: DigestKey([1; 32]) },
            address: None,
            reached_as: String::new(),
            now_ms: 0,
            complete: true,
            swept: 0,
        },
        secrets: Secrets::new([SECRET]).expect("long enough"),
        drift_max_ms: 500,
        environment: Environment::new(Arc::new(|| NOW_MS)),
        network: Arc::new(SystemNetwork),
    }
}

/// A batch as long as they get.
fn batch(number: u64) -> Message {
    let register = Register::live(
        Value::trusted(format!("\"{}\"", "v".repeat(MESSAGE_BYTES))),
        None,
        Timestamp { hlc: 1, node: NodeId(1) },
    );
    let row = Row::new(Key::parse("k").expect("a key"), register);
    Message::Rows(Rows { batch: number, repair: true, tables: vec![(table(), vec![row])] })
}

fn table() -> TableName {
    TableName::parse("t").expect("a name")
}

/// Requests wait neither behind batches that the writer does not have yet, nor for a session that is busy.
#[tokio::test]
async fn requests_pass_by_rows_on_both_sides() {
    let (one, two) = link_pair().await;
    let (near, far, _script) = channels();
    let (outgoing, to_send) = mpsc::channel(64);
    // A whole window of rows.
    for number in 0..5 {
        outgoing.try_send(batch(number)).expect("there is room");
    }
    let request = ask(&near, Consensus, b"who");
    until("it is queued", || near.figures()[Consensus.index()].in_flight == 1).await;
    // The session of node 2 takes nothing.
    let (to_take, mut incoming) = mpsc::channel(io::READ_AHEAD_MAX);
    tokio::spawn(io::read(two.receiver, to_take, far.clone()));
    let (_two_outgoing, two_to_send) = mpsc::channel(1);
    tokio::spawn(io::write(two.sender, two_to_send, far.clone(), oneshot::channel().0));
    let (one_to_take, _one_incoming) = mpsc::channel(io::READ_AHEAD_MAX);
    tokio::spawn(io::read(one.receiver, one_to_take, near.clone()));
    tokio::spawn(io::write(one.sender, to_send, near.clone(), oneshot::channel().0));
    assert_eq!(request.await.expect("runs"), Ok(b"0000000000000001 consensus".to_vec()), "before the rows");
    until("all rows were read ahead", || incoming.len() == 5).await;
    let behind = near.request(Client, b"who".to_vec(), PATIENT).await;
    assert_eq!(behind, Ok(b"0000000000000001 client".to_vec()), "while the session has not taken the rows");
    for number in 0..5 {
        let received = incoming.recv().await.expect("a message").expect("rows");
        assert_eq!(received.message, batch(number));
    }
}

/// A node that is asked all the time still sends its rounds and rows, and its keep-alives.
#[tokio::test]
async fn requests_do_not_keep_the_messages_of_the_session_from_the_link() {
    let (one, two) = link_pair().await;
    let (near, _far, _script) = channels();
    let body = vec![0; MESSAGE_BYTES];
    let _requests: Vec<_> = (0..40).map(|_| ask(&near, Client, &body)).collect();
    until("all are queued", || near.figures()[Client.index()].in_flight == 40).await;
    let (outgoing, to_send) = mpsc::channel(64);
    outgoing.try_send(Message::Leaving { permanent: false }).expect("there is room");
    tokio::spawn(io::write(one.sender, to_send, near.clone(), oneshot::channel().0));
    let mut receiver = two.receiver;
    let mut before = 0;
    let reading = async {
        while !matches!(receiver.next().await, Ok(Some(Message::Leaving { .. }))) {
            before += 1;
        }
    };
    timeout(PATIENT, reading).await.expect("it comes");
    assert_eq!(before, 5, "a mebibyte of requests goes before it");
}

// Nodes.

struct TestNode {
    address: SocketAddr,
    replication: Replication,
    store: Store,
    _directory: tempfile::TempDir,
}

/// Starts a node that has `rows` rows and joins another.
async fn start(rows: u64, join: Option<SocketAddr>) -> TestNode {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(storage::Options {
        data: directory.path().join("storage.db"),
        durability: Durability::None,
        cache_bytes: 8 * 1024 * 1024,
        scrub_bytes_per_second: 0,
        buffers: storage::Buffers::default(),
        tables_max: 4,
        subscriptions_max: 1,
        set_aside_damaged: false,
        peers: crate::replication::peers(join.is_some()),
        environment: Environment::of_system(500),
    })
    .expect("the store opens");
    for number in 0..rows {
        let value = format!("\"{}\"", blake3::hash(&number.to_be_bytes()).to_hex());
        let timestamp = Timestamp { hlc: (NOW_MS << 16) + number, node: NodeId(1) };
        let register = Register::live(Value::trusted(value), None, timestamp);
        let key = Key::parse(&number.to_string()).expect("a key");
        store.merge(&table(), &key, |_| Ok(register)).expect("merges");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let options = Options {
        join: join.iter().map(SocketAddr::to_string).collect(),
        advertise: None,
        listen: address,
        secrets: Secrets::new([SECRET]).expect("long enough"),
        tombstone_grace_ms: 3_600_000,
        forget_after_ms: 3_600_000,
        round_ms: 1_000,
        clock_drift_max_ms: 500,
        network: Arc::new(SystemNetwork),
    };
    let timestamps = Arc::new(Timestamps::new(store.clone(), 500));
    let replication = Replication::start(options, store.clone(), timestamps).expect("starts");
    let accepting = replication.clone();
    tokio::spawn(async move {
        while let Ok((stream, remote)) = listener.accept().await {
            let replication = accepting.clone();
            tokio::spawn(async move {
                let Ok(admission) = replication.admit(remote) else { return };
                // A connection that only tests whether anybody listens is not upgraded.
                let mut first = [0];
                if matches!(stream.peek(&mut first).await, Ok(1)) {
                    replication.link(Box::new(upgraded(stream).await), remote, admission);
                }
            });
        }
    });
    TestNode { address, replication, store, _directory: directory }
}

async fn linked(one: &TestNode, two: &TestNode) {
    let is_linked = |node: &TestNode| node.replication.membership().peers.iter().any(|peer| peer.linked);
    until("the nodes are linked", || is_linked(one) && is_linked(two)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_ask_each_other_until_their_link_ends() {
    let one = start(0, None).await;
    let two = start(0, Some(one.address)).await;
    let (from, to) = (one.store.node(), two.store.node());
    let early = one.replication.request(NodeId(7), Client, b"who".to_vec(), PATIENT).await;
    assert!(matches!(early, Err(RequestError::NoLink(_))), "{early:?}");
    linked(&one, &two).await;
    let script = Arc::new(Script::default());
    two.replication.serve(Arc::new(Shared(script.clone())));
    let answer = one.replication.request(to, Client, b"who".to_vec(), PATIENT).await;
    assert_eq!(answer, Ok(format!("{from} client").into_bytes()));
    let back = two.replication.request(from, Client, b"who".to_vec(), PATIENT).await;
    assert_eq!(back, Err(RequestError::NotServed));
    let asking = one.replication.clone();
    let waiting = tokio::spawn(async move { asking.request(to, Client, b"wait".to_vec(), PATIENT).await });
    script.reaches(2, 0).await;
    two.replication.stop().await;
    let error = waiting.await.expect("runs").expect_err("the link ended");
    assert!(error.is_outcome_unknown() && matches!(error, RequestError::LinkEnded(_)), "{error:?}");
    script.reaches(2, 1).await;
    let peer = &one.replication.membership().peers[0];
    let figures = peer.totals.requests[Client.index()];
    assert_eq!((figures.requests, figures.failed, figures.in_flight), (2, 1, 0), "the ended link counts");
    one.replication.stop().await;
}

/// A node that receives its first sync answers requests all the while, as consensus needs. `DYNARUST_REQUEST_ROWS` is
/// how many rows it receives (100,000 to measure); the test prints the round trips.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_in_time_during_a_first_sync() {
    let rows = std::env::var("DYNARUST_REQUEST_ROWS").map_or(4_000, |rows| rows.parse().expect("a number"));
    let one = start(rows, None).await;
    let two = start(0, Some(one.address)).await;
    linked(&one, &two).await;
    for node in [&one, &two] {
        node.replication.serve(Arc::new(Shared(Arc::default())));
    }
    let begun = Instant::now();
    let mut trips = [Vec::new(), Vec::new()];
    while two.store.rows_total() < rows {
        assert!(begun.elapsed() < 4 * PATIENT, "{} of {rows} rows", two.store.rows_total());
        for (index, (from, to)) in [(&one, &two), (&two, &one)].into_iter().enumerate() {
            let sent = Instant::now();
            let beat = from.replication.request(to.store.node(), Consensus, b"beat".to_vec(), PATIENT).await;
            assert_eq!(beat, Ok(b"beat".to_vec()));
            trips[index].push(sent.elapsed());
        }
        sleep(Duration::from_millis(2)).await;
    }
    println!("{rows} rows in {:?}", begun.elapsed());
    for (way, mut trips) in ["to the node that syncs", "from it"].into_iter().zip(trips) {
        trips.sort();
        let at = |share: usize| trips[(trips.len() * share / 100).min(trips.len() - 1)];
        println!(
            "{way}: {} round trips, median {:?}, 99th percentile {:?}, worst {:?}",
            trips.len(),
            at(50),
            at(99),
            at(100)
        );
        // Tens of milliseconds where the machine is free: this says only that none waited for the sync.
        assert!(at(50) < Duration::from_millis(100) && at(100) < Duration::from_secs(1));
    }
    two.replication.stop().await;
    one.replication.stop().await;
}
