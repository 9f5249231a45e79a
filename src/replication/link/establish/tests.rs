//! Links over in-memory connections: what they carry, and who is refused, seen from both sides.

use std::{future::ready, io, net::IpAddr, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::io::{DuplexStream, duplex};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::handshake::server::{Request, Response},
};

use super::*;
use crate::{
    core::{
        clock::{NodeId, Timestamp},
        digest::DigestKey,
        json::Value,
        name::{Key, TableName},
        protocol::message::{Message, Row, Rows},
        register::Register,
    },
    replication::link::{
        admission::AdmissionControl,
        connect::SystemNetwork,
        handshake::{ClusterIdentity, RefusalKind},
    },
};

const NOW_MS: u64 = 1_763_689_000_000;
const OLD: &str = "the old secret of the cluster";
const NEW: &str = "the new secret of the cluster";

fn local(node: u64, secrets: &[&str]) -> Local {
    let cluster = ClusterIdentity { id: 1, linked: true, digest_key: DigestKey([node as u8; 32]) };
    Local {
        hello: Hello {
            node: NodeId(node),
            incarnation: node,
            cluster,
            address: Some(format!("node{node}:6660")),
            reached_as: String::new(),
            now_ms: 0,
            complete: node == 1,
            swept: node,
        },
        secrets: Secrets::new(secrets.iter().copied()).expect("long enough"),
        drift_max_ms: 500,
        environment: Environment::new(Arc::new(|| NOW_MS)),
        network: Arc::new(SystemNetwork),
    }
}

type Outcome = Result<Link, LinkError>;

/// The outcomes at an initiator and at a responder.
async fn meet(initiator: &Local, responder: &Local, remote: [u8; 4]) -> (Outcome, Outcome) {
    let (near, far) = duplex(64 * 1024);
    let remote = SocketAddr::from((remote, 6660));
    let dialing = async {
        let key = initiator.secrets.link_keys()[0];
        initiate(Box::new(near), remote, "reached:1", &key, initiator).await
    };
    tokio::join!(dialing, answer(far, remote, responder))
}

/// The outcome at the dialed node.
async fn answer(far: DuplexStream, remote: SocketAddr, responder: &Local) -> Outcome {
    let admission_control = AdmissionControl::new(responder.secrets.clone());
    let admission = admission_control.admit(remote).map_err(|error| LinkError::Lost(error.to_string()))?;
    #[expect(clippy::result_large_err, reason = "the type is the library's")]
    let accept_upgrade = |_: &Request, mut response: Response| {
        let protocol = connect::subprotocol().parse().expect("a header value");
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    let upgraded = accept_hdr_async(far, accept_upgrade).await.map_err(LinkError::lost)?;
    accept(Box::new(upgraded.into_inner()), remote, admission, responder).await
}

/// A network in which every name has the same addresses. 127.0.0.N is node N, if it is up.
struct Numbers(Vec<(u8, bool)>);

impl Network for Numbers {
    fn look_up<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let numbers = self.0.iter().map(|(node, _)| SocketAddr::from(([127, 0, 0, *node], 6660))).collect();
        ready(Ok(numbers)).boxed()
    }

    fn connect(&self, target: SocketAddr) -> BoxFuture<'_, io::Result<BoxedDuplex>> {
        let is_called = |node: u8| target.ip() == IpAddr::from([127, 0, 0, node]);
        let called = self.0.iter().find(|(node, is_there)| *is_there && is_called(*node));
        let Some((node, _)) = called else {
            return ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed();
        };
        let (near, far) = duplex(64 * 1024);
        let responder = local(u64::from(*node), &[OLD]);
        tokio::spawn(async move { answer(far, target, &responder).await });
        ready(Ok(Box::new(near) as BoxedDuplex)).boxed()
    }

    fn local_towards(&self, _: SocketAddr) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A name with several addresses, such as a container service has, was never dialed again once the first address that
/// answered was the node's own.
#[tokio::test]
async fn a_name_with_several_addresses_is_dialed_until_one_is_another_node() {
    let dialed = |numbers: &[(u8, bool)]| {
        let one = Local { network: Arc::new(Numbers(numbers.to_vec())), ..local(1, &[NEW, OLD]) };
        async move { dial("name:6660", &one).await }
    };
    for numbers in [&[(1, true), (2, true)][..], &[(3, false), (1, true), (2, true)], &[(2, true), (1, true)]]
    {
        let link = dialed(numbers).await.expect("a link");
        assert_eq!(link.remote.node, NodeId(2), "{numbers:?}");
    }
    let error = dialed(&[(1, true), (1, true)]).await.expect_err("no other node is up");
    assert!(error.is_itself(), "{error}");
    for numbers in [[(1, true), (2, false)], [(2, false), (1, true)]] {
        let error = dialed(&numbers).await.expect_err("the other node is down");
        assert!(matches!(error, LinkError::Unreachable { .. }), "it must be dialed again: {error}");
    }
}

async fn meet_here(initiator: &Local, responder: &Local) -> (Outcome, Outcome) {
    meet(initiator, responder, [127, 0, 0, 1]).await
}

fn rows(value_bytes: usize) -> Message {
    let text = format!("\"{}\"", "v".repeat(value_bytes));
    let value = Value::parse(&text).expect("JSON");
    let register = Register::live(value, None, Timestamp { hlc: 1, node: NodeId(1) });
    let row = Row::new(Key::parse("k").expect("a key"), register);
    let table = TableName::parse("t").expect("a name");
    Message::Rows(Rows { batch: 1, repair: false, tables: vec![(table, vec![row])] })
}

#[tokio::test]
async fn each_side_learns_the_identity_of_the_other() {
    let (one, other) = meet_here(&local(1, &[OLD]), &local(2, &[OLD])).await;
    let (one, other) = (one.expect("linked"), other.expect("linked"));
    assert_eq!((one.role, other.role), (Role::Initiator, Role::Responder));
    assert_eq!((one.verdict, other.verdict), (Verdict::Same, Verdict::Same));
    assert_eq!((one.remote.node, other.remote.node), (NodeId(2), NodeId(1)));
    assert_eq!(one.remote.cluster.digest_key, DigestKey([2; 32]));
    assert_eq!(other.remote.cluster.digest_key, DigestKey([1; 32]));
    assert_eq!((one.remote.reached_as.as_str(), other.remote.reached_as.as_str()), ("", "reached:1"));
    assert_eq!((one.remote.now_ms, one.remote.swept, other.remote.complete), (NOW_MS, 2, true));
}

#[tokio::test]
async fn messages_go_both_ways_at_once_even_long_ones() {
    let (one, other) = meet_here(&local(1, &[OLD]), &local(2, &[OLD])).await;
    let talk = |link: Link| async move {
        let Link { mut sender, mut receiver, traffic, .. } = link;
        let messages = [rows(1), rows(5 << 20), Message::Leaving { permanent: false }];
        let sending = async {
            for message in &messages {
                sender.send(message).await.expect("sent");
            }
        };
        let receiving = async {
            for message in &messages {
                assert!(receiver.next().await.expect("received").as_ref() == Some(message));
            }
        };
        tokio::join!(sending, receiving);
        assert!(traffic.sent_bytes() > 5 << 20 && traffic.received_bytes() == traffic.sent_bytes());
        sender.close().await;
        assert_eq!(receiver.next().await, Ok(None));
    };
    tokio::join!(talk(one.expect("linked")), talk(other.expect("linked")));
}

#[tokio::test]
async fn a_message_cancelled_halfway_ends_the_link() {
    let (one, _other) = meet_here(&local(1, &[OLD]), &local(2, &[OLD])).await;
    let mut sender = one.expect("linked").sender;
    let long = rows(5 << 20);
    let given_up = sender.send(&long).now_or_never().is_none();
    assert!(given_up, "nobody reads, so it waits");
    assert!(matches!(sender.send(&long).await, Err(LinkError::Broken(_))));
}

#[tokio::test]
async fn differing_secrets_are_reported_on_both_sides() {
    for (initiator, responder) in [(&[OLD][..], &[NEW][..]), (&[OLD], &[]), (&[], &[OLD])] {
        let (one, other) = meet_here(&local(1, initiator), &local(2, responder)).await;
        for outcome in [one, other] {
            let error = outcome.expect_err("refused");
            assert_eq!(error, LinkError::SecretDiffers);
            assert!(error.to_string().contains("CLUSTER_SECRET"), "{error}");
            assert!(!error.to_string().contains(OLD) && !error.to_string().contains(NEW), "{error}");
        }
    }
}

#[tokio::test]
async fn any_secret_of_the_responder_is_accepted() {
    let (one, other) = meet_here(&local(1, &[OLD]), &local(2, &[NEW, OLD])).await;
    assert!(one.is_ok() && other.is_ok());
}

#[tokio::test]
async fn without_secrets_local_nodes_link_and_remote_ones_are_told_what_to_set() {
    let (one, other) = meet_here(&local(1, &[]), &local(2, &[])).await;
    assert!(one.is_ok() && other.is_ok());
    let (one, other) = meet(&local(1, &[]), &local(2, &[]), [10, 0, 0, 1]).await;
    for outcome in [one, other] {
        let error = outcome.expect_err("refused").to_string();
        assert!(
            error.contains("only with nodes on its own machine") && error.contains("set CLUSTER_SECRET"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_refused_node_with_the_secret_is_told_why_on_both_sides() {
    let itself = local(2, &[OLD]);
    let mut copy = local(2, &[OLD]);
    copy.hello.incarnation = 77;
    let mut foreign = local(1, &[OLD]);
    foreign.hello.cluster.id = 9;
    let mut early = local(1, &[OLD]);
    early.environment = Environment::new(Arc::new(|| NOW_MS + 600_000));
    let mut late = local(1, &[OLD]);
    late.environment = Environment::new(Arc::new(|| NOW_MS - 600_000));
    for (initiator, kind, words) in [
        (itself, RefusalKind::Itself, "reached itself"),
        (copy, RefusalKind::SameNode, "empty --data"),
        (foreign, RefusalKind::OtherCluster, "empty --data"),
        (early, RefusalKind::ClocksApart, "node1:6660 is at least"),
        (late, RefusalKind::ClocksApart, "node2:6660 is at least"),
    ] {
        let (one, other) = meet_here(&initiator, &local(2, &[OLD])).await;
        let (LinkError::Refused(told), LinkError::Refusing(said)) =
            (one.expect_err("refused"), other.expect_err("refused"))
        else {
            panic!("{kind:?}: the responder refuses, and the initiator is told");
        };
        assert_eq!((told.kind, said.kind), (kind, kind));
        assert_eq!(told.text, said.text);
        assert!(told.text.contains(words), "{}", told.text);
    }
}

/// The responder cannot tell that the clocks differ, because the hello may have been in transit that long. The
/// initiator can.
#[tokio::test]
async fn what_only_the_initiator_can_tell_is_sent_to_the_responder() {
    let mut initiator = local(1, &[OLD]);
    initiator.environment = Environment::new(Arc::new(|| NOW_MS - 1200));
    let (one, other) = meet_here(&initiator, &local(2, &[OLD])).await;
    assert!(matches!(one, Err(LinkError::Refusing(refusal)) if refusal.kind == RefusalKind::ClocksApart));
    assert!(matches!(other, Err(LinkError::Refused(refusal)) if refusal.kind == RefusalKind::ClocksApart));
}

#[tokio::test]
async fn a_node_that_never_linked_adopts_the_cluster_it_meets() {
    let mut fresh = local(1, &[OLD]);
    fresh.hello.cluster.id = 9;
    fresh.hello.cluster.linked = false;
    let (one, other) = meet_here(&fresh, &local(2, &[OLD])).await;
    assert_eq!(one.expect("linked").verdict, Verdict::LocalAdopts);
    assert_eq!(other.expect("linked").verdict, Verdict::RemoteAdopts);
}

#[tokio::test]
async fn a_handshake_that_stops_halfway_times_out() {
    let (near, _far) = duplex(1024);
    let remote = SocketAddr::from(([127, 0, 0, 1], 1));
    let admission = AdmissionControl::new(Secrets::Open).admit(remote).expect("admitted");
    let outcome = accept(Box::new(near), remote, admission, &local(1, &[])).await;
    assert_eq!(outcome.expect_err("nobody speaks"), LinkError::TimedOut);
}
