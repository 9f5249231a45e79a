//! What the bare HTTP servers have in common: they accept, and hyper does the rest. No timeouts, limits or TLS.

use std::{convert::Infallible, future::Future};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;

use super::Failure;

/// Answers requests at an address until the process ends. `name` and `what` are printed once it listens.
pub fn serve<F>(
    listen: &str,
    (name, what): (&str, &str),
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> Result<(), Failure>
where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    // As many workers as a node has: one for each core that it may use.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await?;
        println!("bare {name} at {listen}, {what}");
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            tokio::spawn(async move {
                // A client that goes away in the middle of something is no event.
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    })
}
