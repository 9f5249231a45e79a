//! A hyper server that answers GETs from a map. Its answers are a node's to the byte in all that counts: the same headers, each
//! as long as a node's, and bodies of the same documents, so that both send the same number of bytes for a key. It has no
//! routes, no store, no ids that differ, no metrics, and none of the timeouts of a server that is meant for strangers.

use std::{collections::HashMap, future, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming};

use super::{Failure, Listen, server};
use crate::client::{document::Documents, target};

/// What is served.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    listen: Listen,
    /// Keys that are there
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    /// Approximate size of a value, as JSON text
    #[arg(long, default_value_t = 350)]
    value_bytes: usize,
    /// Seed of the documents
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Serves until the process ends.
pub fn run(options: &Options) -> Result<(), Failure> {
    let mut documents = Documents::new(options.seed, options.value_bytes);
    let values = (0..options.keys).map(|number| {
        let mut body = br#"{"value":"#.to_vec();
        documents.write(&mut body);
        body.push(b'}');
        (format!("/bench/key/{}", target::key(number)), Bytes::from(body))
    });
    let values: Arc<HashMap<String, Bytes>> = Arc::new(values.collect());
    let what = format!("{} keys", options.keys);
    server::serve(&options.listen.address, ("http", &what), move |request| {
        future::ready(answer(&request, &values))
    })
}

fn answer(request: &Request<Incoming>, values: &HashMap<String, Bytes>) -> Response<Full<Bytes>> {
    let Some(value) = values.get(request.uri().path()) else {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    let response = Response::builder()
        .header("content-type", "application/json")
        .header("etag", r#""019a0f3c2b110000-5f0c1d2e3a4b5c6d""#)
        .header("last-modified", "Fri, 21 Nov 2025 02:00:00 GMT")
        .header("dynarust-version", "019a0f3c2b110000-5f0c1d2e3a4b5c6d")
        .header("dynarust-node", "5f0c1d2e3a4b5c6d")
        .header("x-request-id", "5f0c1d2e3a4b5c6d")
        .body(Full::new(value.clone()));
    response.expect("all headers are constants")
}
