//! Clients that send a call slowly, in part, or too much of it: what they hold is bounded, and a call begins only when all of it is there.

use std::{fs, net::SocketAddr, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
};
use prost::Message;
use tokio::{sync::mpsc, task::JoinHandle};
use tonic::{Code, Status, body::Body};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower_service::Service;

use super::client::*;
use crate::access::{file, guarded};

const SET: &str = "/dynarust.v1.Kv/Set";

/// A call whose bytes the test sends one by one.
struct Sending {
    bytes: Option<mpsc::UnboundedSender<Bytes>>,
    answer: JoinHandle<hyper::Result<Response<Incoming>>>,
}

impl Sending {
    fn begin(channel: &mut Channel, address: SocketAddr, path: &str, token: &str) -> Self {
        let (bytes, received) = mpsc::unbounded_channel::<Bytes>();
        let frames = stream::unfold(received, |mut received| async {
            let bytes = received.recv().await?;
            Some((Ok::<_, Status>(Frame::data(bytes)), received))
        });
        let request = Request::post(format!("http://{address}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {token}"))
            .body(Body::new(StreamBody::new(frames)))
            .expect("a request");
        Self { bytes: Some(bytes), answer: tokio::spawn(channel.call(request)) }
    }

    fn send(&self, bytes: impl Into<Bytes>) {
        // An answer may have ended the call.
        let _ = self.bytes.as_ref().expect("it has not ended").send(bytes.into());
    }

    fn end(&mut self) {
        self.bytes = None;
    }

    /// The status of an answer that is one from its head on.
    async fn status(self) -> Result<(), Status> {
        let response = self.answer.await.expect("no panic").expect("an answer");
        Err(Status::from_header_map(response.headers()).expect("a status"))
    }
}

/// A message as it is sent.
fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len() as u32);
    message.encode(&mut bytes).expect("there is room");
    bytes.freeze()
}

/// A token was looked at only at the head of a call, so that a client with a token that was revoked long ago wrote with it.
#[test]
fn a_token_that_is_revoked_while_a_message_arrives_writes_nothing() {
    let entries = [("leaves", "rights = [\"read\", \"write\"]"), ("stays", "rights = [\"read\"]")];
    let node = guarded(&entries, |setup| setup.flag("--grpc", "127.0.0.1:0"));
    let address = address_in(&node.log());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let test = async {
        let mut channel = Channel::open(address).await;
        let mut sending = Sending::begin(&mut channel, address, SET, "leaves");
        let message = framed(&set("t", "a", json("1")));
        sending.send(message.slice(..7));
        let origin = format!("http://{address}").parse().expect("a URI");
        let mut client = KvClient::with_origin(channel, origin);
        let with = |token: &str, message| {
            let mut request = tonic::Request::new(message);
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("text"));
            request
        };
        let watch = WatchRequest { table: "t".into(), ..WatchRequest::default() };
        let mut events = client.watch(with("leaves", watch)).await.expect("granted").into_inner();
        events.message().await.expect("a position");
        fs::write(&node.tokens, file(&entries[1..])).expect("written");
        node.signal("HUP");
        while events.message().await.is_ok() {}
        sending.send(message.slice(7..));
        sending.end();
        assert_status(
            sending.status().await,
            Code::Unauthenticated,
            "unauthorized",
            &["the token was revoked"],
        );
        let mut read = tonic::Request::new(get("t", "a"));
        read.metadata_mut().insert("authorization", "Bearer stays".parse().expect("text"));
        assert_status(client.get(read).await, Code::NotFound, "not-found", &[]);
    };
    runtime.block_on(async { tokio::time::timeout(crate::harness::DEADLINE, test).await.expect("in time") });
}

/// A call whose end never came waited for ever, and took in any number of messages meanwhile.
#[test]
fn a_call_that_is_not_sent_to_its_end_is_ended_and_writes_nothing() {
    let served = Served::start_with(|setup| setup.flag("--body-timeout", "500ms"));
    served.with_client(|mut client| async move {
        let message = framed(&set("t", "a", json("1")));
        let twice = Bytes::from([&message[..], &message[..]].concat());
        let mut channel = Channel::open(served.address).await;
        let mut begin = |sent: &[Bytes]| {
            let sending = Sending::begin(&mut channel, served.address, SET, "none");
            sent.iter().for_each(|bytes| sending.send(bytes.clone()));
            sending
        };
        let late = [begin(&[]), begin(&[message.slice(..3)]), begin(std::slice::from_ref(&message))];
        let (two, again) = (begin(&[twice]), begin(&[message.clone(), message.clone()]));
        let (mut none, mut half) = (begin(&[]), begin(&[message.slice(..9)]));
        none.end();
        half.end();
        const INVALID: Code = Code::InvalidArgument;
        for sending in [two, again] {
            assert_status(sending.status().await, INVALID, "bad-request", &["a second message"]);
        }
        for sending in [none, half] {
            assert_status(sending.status().await, INVALID, "bad-request", &["no whole message"]);
        }
        for sending in late {
            assert_status(sending.status().await, Code::DeadlineExceeded, "request-timeout", &["0.5 s"]);
        }
        assert_status(client.get(get("t", "a")).await, Code::NotFound, "not-found", &[]);
    });
}

/// The length that a prefix declares was reserved before any of it was sent: eight of them took the memory of all other clients.
#[test]
fn memory_is_taken_by_what_was_sent_and_open_services_take_little() {
    let served = &Served::start();
    served.with_client(|mut client| async move {
        let mut channel = Channel::open(served.address).await;
        let declared: Vec<_> = (0..16)
            .map(|_| {
                let sending = Sending::begin(&mut channel, served.address, SET, "none");
                sending.send(&[0, 3, 0, 0, 0][..]);
                sending
            })
            .collect();
        let mut open = Sending::begin(&mut channel, served.address, "/grpc.health.v1.Health/Check", "none");
        let long = HealthCheckRequest { service: "s".repeat(20_000) };
        open.send(framed(&long));
        open.end();
        // Those before it on the connection were taken by then.
        assert_status(open.status().await, Code::ResourceExhausted, "too-large", &["message", "16384"]);
        client.set(set("t", "a", bytes(&[7; 100_000]))).await.expect("there is memory");
        let used = served.node.send(&crate::harness::http::Request::new("GET", "/metrics")).expect(200);
        assert!(used.text().contains("\ndynarust_body_memory_used_bytes 0"), "{}", used.text());
        drop(declared);
        let version = condition::Expected::Version("\u{e9}".repeat(5_000));
        let condition = Some(Condition { expected: Some(version) });
        let wrong = client.set(SetRequest { condition, ..set("t", "a", json("1")) }).await;
        assert!(wrong.as_ref().is_err_and(|wrong| wrong.message().len() <= 1024), "{wrong:?}");
        assert_status(wrong, Code::InvalidArgument, "bad-request", &["condition.version", "…"]);
    });
}

#[test]
fn a_message_with_too_many_elements_is_refused_before_it_is_decoded() {
    let served = Served::start();
    served.with_client(|mut client| async move {
        let many = TxnRequest { success: vec![Operation::default(); 1_000_000], ..TxnRequest::default() };
        let refused = client.txn(many).await;
        assert_status(refused, Code::InvalidArgument, "bad-request", &["384 fields", "128"]);
    });
}

/// REST does not count `/readyz` either: a balancer that asks often must not lose a node that works.
#[test]
fn questions_for_the_health_of_a_node_are_not_limited() {
    let served = Served::start_with(|setup| setup.flag("--rate-limit-per-address", "1"));
    served.with_client(|_| async {
        let origin = format!("http://{}", served.address).parse().expect("a URI");
        let mut health = HealthClient::with_origin(Channel::open(served.address).await, origin);
        for _ in 0..50 {
            health.check(HealthCheckRequest::default()).await.expect("never limited");
        }
    });
}

/// The deadline holds for all of a stream, however late the client reads it.
#[test]
fn a_stream_that_is_read_late_ends_with_its_deadline() {
    let served = Served::start();
    served.with_client(|mut client| async move {
        for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            client.set(set("t", key, bytes(&[7; 700_000]))).await.expect("set");
        }
        let mut list = tonic::Request::new(ListRequest { table: "t".into(), ..ListRequest::default() });
        list.set_timeout(Duration::from_secs(1));
        let mut pages = client.list(list).await.expect("it begins in time").into_inner();
        let mut watch = tonic::Request::new(WatchRequest { table: "t".into(), ..WatchRequest::default() });
        watch.set_timeout(Duration::from_secs(1));
        let mut events = client.watch(watch).await.expect("watch").into_inner();
        // It ends after the deadline of the listing, of which the connection takes only a part meanwhile.
        while events.message().await.is_ok() {}
        let ended = loop {
            match pages.message().await {
                Ok(Some(_)) => {}
                ended => break ended,
            }
        };
        assert_eq!(ended.map_err(|status| status.code()), Err(Code::DeadlineExceeded));
    });
}
