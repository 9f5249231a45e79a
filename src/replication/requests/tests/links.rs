//! Requests between two links, and between two nodes.

use super::{
    nodes::{linked, start, table, upgraded},
    *,
};

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
