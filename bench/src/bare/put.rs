//! A hyper server that puts the body of each PUT into sled and answers once it is on disk. One flush and one sync serve all that wait, as
//! in a node, only that it does not wait for further writers. It has no routes, looks at no body, and keeps no versions, digests or compressed
//! values.

use std::{
    fs::File,
    mem,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming};
use tokio::sync::oneshot;

use super::{Failure, Listen, server, sled};

/// Where it listens, and what it writes to.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    listen: Listen,
    /// Directory of sled; it must not exist
    #[arg(long)]
    data: PathBuf,
}

/// Serves until the process ends, or a sync fails.
pub fn run(Options { listen, data }: &Options) -> Result<(), Failure> {
    let store = Arc::new(Store::open(data)?);
    let committed = store.clone();
    thread::Builder::new().name("commit".into()).spawn(move || committed.commit())?;
    server::serve(&listen.address, ("put", "durable"), move |request| answer(request, store.clone()))
}

async fn answer(request: Request<Incoming>, store: Arc<Store>) -> Response<Full<Bytes>> {
    let key = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let stored = match request.into_body().collect().await {
        Ok(body) => store.put(&key, &body.to_bytes()).await,
        Err(error) => Err(error.into()),
    };
    let response = match stored {
        Ok(()) => Response::builder()
            .header("content-type", "application/json")
            .header("etag", r#""019a0f3c2b110000-5f0c1d2e3a4b5c6d""#)
            .header("x-request-id", "5f0c1d2e3a4b5c6d")
            .body(r#"{"version":"019a0f3c2b110000-5f0c1d2e3a4b5c6d","timestamp":1763689000123,"created":false}"#.into()),
        Err(error) => Response::builder()
            .status(StatusCode::INTERNAL_SERVER_ERROR)
            .body(Full::from(error.to_string())),
    };
    response.expect("all headers are constants")
}

/// sled, and who waits for the disk.
struct Store {
    database: ::sled::Db,
    tree: ::sled::Tree,
    log: File,
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
    wake: Condvar,
}

impl Store {
    fn open(data: &Path) -> Result<Self, Failure> {
        let (database, tree, log) = sled::open(data)?;
        Ok(Self { database, tree, log, waiting: Mutex::default(), wake: Condvar::new() })
    }

    async fn put(&self, key: &str, value: &[u8]) -> Result<(), Failure> {
        self.tree.insert(sled::partitioned(key), value)?;
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().expect("no holder panics").push(sender);
        self.wake.notify_one();
        Ok(receiver.await?)
    }

    /// Makes durable what was written, round after round. A failed sync ends the process: nothing that waits may be answered.
    fn commit(&self) {
        loop {
            let waiting = self.waiting.lock().expect("no holder panics");
            let waiting = self.wake.wait_while(waiting, |waiting| waiting.is_empty());
            let round = mem::take(&mut *waiting.expect("no holder panics"));
            if let Err(error) = self.sync() {
                eprintln!("bare put: {error}");
                std::process::exit(1);
            }
            for writer in round {
                // Who went away needs no answer.
                writer.send(()).ok();
            }
        }
    }

    fn sync(&self) -> Result<(), Failure> {
        self.database.flush()?;
        Ok(self.log.sync_data()?)
    }
}
