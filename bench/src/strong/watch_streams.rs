//! Streams of the etcd API that each watch a key which nobody writes: what they cost those who write others.

use std::net::SocketAddr;

use tokio::task::JoinHandle;

use crate::{
    client::calls::{self, Calls},
    error::{Error, Result},
};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// Streams on a connection: as many as every target takes.
const ON_A_CONNECTION: u64 = 100;

/// Streams that are open, until they are dropped.
pub struct WatchStreams(Vec<JoinHandle<Result<()>>>);

impl WatchStreams {
    /// Opens so many, and returns once all are watched.
    ///
    /// # Errors
    /// `Failed` if the target does not take them.
    pub async fn open(address: SocketAddr, count: u64) -> Result<Self> {
        let mut connections = Vec::new();
        for first in (0..count).step_by(ON_A_CONNECTION as usize) {
            let mut calls = Calls::open(address).await?;
            for number in first..count.min(first + ON_A_CONNECTION) {
                calls.begin_stream(WATCH, &request(&format!("unwritten/{number}")))?;
            }
            calls.streaming().await?;
            connections.push(tokio::spawn(async move { calls.answered(&mut Vec::new()).await }));
        }
        Ok(Self(connections))
    }

    /// Fails if one has ended.
    pub fn check(&self) -> Result<()> {
        let ended = || Error::Failed("the target ended a stream that watches".into());
        if self.0.iter().any(JoinHandle::is_finished) { Err(ended()) } else { Ok(()) }
    }
}

impl Drop for WatchStreams {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// A request for the changes of a key, with its prefix.
fn request(key: &str) -> Vec<u8> {
    let mut create = Vec::new();
    calls::message(&[key.as_bytes()], &mut create);
    let mut request = Vec::new();
    calls::message(&[&create[calls::PREFIX_BYTES..]], &mut request);
    request
}
