//! Requests between two channels whose messages a test carries, between two links, and between two nodes.

mod channels;
mod links;
pub(in crate::replication) mod nodes;

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    channel::{Channel, Services},
    *,
};
use crate::{
    core::{
        clock::Timestamp,
        digest::DigestKey,
        json::Value,
        name::Key,
        protocol::message::{MESSAGE_BYTES, Message, Row, Rows},
        register::Register,
    },
    replication::link::{
        Link,
        admission::AdmissionControl,
        connect::SystemNetwork,
        establish::{self, Local},
        handshake::{ClusterIdentity, Hello},
        io,
        secret::Secrets,
    },
    storage::Environment,
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
    let services = Services::default();
    assert!(services.iter().all(|service| service.set(Arc::new(Shared(script.clone()))).is_ok()));
    let near = Arc::new(Channel::new(NodeId(2), Services::default()));
    let far = Arc::new(Channel::new(NodeId(1), services));
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

pub(in crate::replication) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(PATIENT, waiting).await.is_ok(), "never: {what}");
}
