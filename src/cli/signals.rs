//! SIGTERM and SIGINT: the first stops the node, the second ends the process at once. That loses no acknowledged write, as writes are
//! durable before they are acknowledged.

use std::{future::Future, process};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::Exit;
use crate::error::{Error, Result};

/// Starts listening for signals. The returned future completes at the first one.
pub fn shutdown() -> Result<impl Future<Output = ()>> {
    let mut signals = Signals::listen()?;
    Ok(async move {
        let name = signals.next().await;
        info!("{name}: stopping; a second signal ends the process at once");
        tokio::spawn(async move {
            let name = signals.next().await;
            warn!("{name} again: ended at once");
            process::exit(Exit::Failure.code().into());
        });
    })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|error| Error::io("cannot listen for signals", &error));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
