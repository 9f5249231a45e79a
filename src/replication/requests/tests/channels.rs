//! Requests between two channels whose messages a test carries.

use super::*;

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
async fn a_channel_is_idle_once_all_requests_of_both_nodes_are_answered() {
    let (near, far, script) = connected();
    timeout(PATIENT, near.until_idle()).await.expect("nothing was asked");
    let asked = ask(&near, Client, b"wait");
    script.reaches(1, 0).await;
    for channel in [&near, &far] {
        assert!(channel.until_idle().now_or_never().is_none(), "a request waits for its response");
    }
    let idle = async { tokio::join!(near.until_idle(), far.until_idle()) };
    let releasing = async {
        script.release();
        asked.await.expect("runs").expect("a response")
    };
    let (_, answer) = timeout(PATIENT, async { tokio::join!(idle, releasing) }).await.expect("both are idle");
    assert_eq!(answer, b"wait");
    let never = ask(&near, Client, b"fail");
    near.end("over");
    timeout(PATIENT, near.until_idle()).await.expect("nothing is under way on a link that has ended");
    never.await.expect("runs").expect_err("the link has ended");
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
    let in_flight = || near.figures().map(|figures| figures.in_flight);
    until("both are queued", || in_flight().iter().sum::<u64>() == 2).await;
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
