//! Compression of responses, gzip or zstd, if the client accepts it and it pays off: listings, exports, and values above `PLAIN_BYTES_MAX`.
//! Event streams stay plain, because each event would wait in the encoder for the next.
//!
//! Our own encoders instead of `tower-http`'s (7 crates): those are outside the memory budget, and take 3.7 MB for zstd where ours take
//! 1.8 MB.
//!
//! The entity tag does not change: it names a version of a value, which is what conditions are about, and there are no ranges.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::BodyStream;
use hyper::{
    Method, StatusCode,
    body::Body as _,
    header::{self, HeaderValue},
};
use tracing::warn;
use warp::{Reply, reply::Response};

use crate::http::{
    request::{
        Call,
        budget::{Budget, Reservation, attach},
        coding::{Coding, Encoder, PLAIN_BYTES_MAX, STEP_BYTES},
        route::Route,
    },
    response::chunks::Exclusive,
    routes::subscribe::X_ACCEL_BUFFERING,
};

/// Compresses the response if that is what the client prefers and it pays off.
pub fn apply(call: &Call, response: Response) -> Response {
    if !pays(call, &response) {
        return response;
    }
    let mut response = response;
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    let Some(coding) = Coding::negotiate(&call.headers) else { return response };
    // If there is no memory for the encoder, send the response plain.
    let Some(encoding) = Encoding::begin(coding, &call.connection.budget) else { return response };
    let (mut head, body) = response.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    let frames = BodyStream::new(body).filter_map(|frame| async move {
        frame.map(|frame| frame.into_data().ok()).map_err(io::Error::other).transpose()
    });
    let coded = warp::reply::stream(Exclusive::new(encoding.over(Box::pin(frames)))).into_response();
    Response::from_parts(head, coded.into_body())
}

fn pays(call: &Call, response: &Response) -> bool {
    let is_read = matches!(call.method, Method::GET | Method::HEAD | Method::POST);
    let is_large = response.body().size_hint().exact().is_none_or(|bytes| bytes > PLAIN_BYTES_MAX);
    is_large
        && is_read
        && response.status() == StatusCode::OK
        && match call.route() {
            Route::Key
            | Route::Keys
            | Route::Store
            | Route::Export
            | Route::OpenApi
            | Route::Docs
            | Route::Dashboard => true,
            Route::Changes => !response.headers().contains_key(X_ACCEL_BUFFERING),
            _ => false,
        }
}

/// An encoder and its memory reservation.
struct Encoding {
    encoder: Encoder,
    budget: Arc<Budget>,
    reservation: Reservation,
}

impl Encoding {
    fn begin(coding: Coding, budget: &Arc<Budget>) -> Option<Self> {
        let reservation = budget.reserve(coding.encoder_bytes()).ok()?;
        let encoder =
            Encoder::new(coding).inspect_err(|error| warn!(%error, "response not compressed")).ok()?;
        Some(Self { encoder, budget: Arc::clone(budget), reservation })
    }

    /// Encodes the frames, a bounded part at a time, so that a long frame does not block its thread.
    fn over(
        self,
        frames: impl Stream<Item = io::Result<Bytes>> + Send + Unpin,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send {
        let start = Some((self, frames, Bytes::new()));
        stream::unfold(start, |state| async {
            let (mut encoding, mut frames, mut plain) = state?;
            loop {
                if plain.is_empty() {
                    match frames.next().await {
                        Some(Ok(frame)) => plain = frame,
                        Some(Err(error)) => return Some((Err(error), None)),
                        None => return Some((encoding.finish(), None)),
                    }
                }
                let step = plain.split_to(plain.len().min(STEP_BYTES));
                match encoding.encoder.write(&step) {
                    Ok(coded) if coded.is_empty() => tokio::task::consume_budget().await,
                    Ok(coded) => {
                        let coded = encoding.reserve(coded);
                        return Some((Ok(coded), Some((encoding, frames, plain))));
                    }
                    Err(error) => return Some((Err(error), None)),
                }
            }
        })
    }

    fn finish(self) -> io::Result<Bytes> {
        let Self { encoder, budget, reservation } = self;
        let last = encoder.finish()?;
        drop(reservation);
        Ok(reserve(&budget, last))
    }

    fn reserve(&self, coded: Vec<u8>) -> Bytes {
        reserve(&self.budget, coded)
    }
}

fn reserve(budget: &Arc<Budget>, coded: Vec<u8>) -> Bytes {
    let reservation = budget.force_reserve(coded.len() as u64);
    attach(coded.into(), reservation)
}
