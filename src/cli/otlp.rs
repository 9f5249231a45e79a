//! `--otlp-endpoint`: a span for each request and each call of gRPC, sent to an OpenTelemetry collector in OTLP over HTTP, as JSON. The crates of OpenTelemetry
//! batch and encode the spans; we send them by hyper, which is here already. For TLS run a collector next to the node.
//!
//! A build without the feature `otlp` refuses the setting (`Config::new`).

use std::sync::Arc;

#[cfg(feature = "otlp")]
use crate::error::Error;
use crate::{config::collector::CollectorUrl, error::Result};

/// What sends the spans, and ends with the node.
#[cfg(feature = "otlp")]
pub use exporter::Exporter;

/// Starts to send spans, if there is an endpoint. `node` is the id of the node, which the spans carry. Runs inside a runtime.
///
/// # Errors
/// `Config` in a build without the feature, and for an endpoint that is none.
#[cfg(feature = "otlp")]
pub fn start(endpoint: Option<&CollectorUrl>, node: &str) -> Result<Option<Arc<Exporter>>> {
    let exporter = endpoint.map(|endpoint| Exporter::start(endpoint, node)).transpose();
    Ok(exporter.map_err(|why| Error::Config(format!("--otlp-endpoint: {why}")))?.map(Arc::new))
}

/// Starts nothing: the configuration of a build without the feature has no endpoint.
///
/// # Errors
/// None.
#[cfg(not(feature = "otlp"))]
pub fn start(_endpoint: Option<&CollectorUrl>, _node: &str) -> Result<Option<Arc<Exporter>>> {
    Ok(None)
}

/// Sends nothing: a build without the feature has none.
#[cfg(not(feature = "otlp"))]
#[derive(Debug)]
pub enum Exporter {}

#[cfg(not(feature = "otlp"))]
impl Exporter {
    /// Nothing is left to send.
    pub async fn finish(&self) {}
}

#[cfg(not(feature = "otlp"))]
impl crate::http::spans::Spans for Exporter {
    fn answered(&self, _: &crate::http::spans::RequestSpan<'_>) {}
}

#[cfg(feature = "otlp")]
mod exporter {
    use std::{
        fmt,
        future::Future,
        pin::Pin,
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use http_body_util::{BodyExt, Full, Limited};
    use hyper::{Request, Response, client::conn::http1};
    use hyper_util::rt::TokioIo;
    use opentelemetry::{
        KeyValue,
        propagation::{Extractor, TextMapPropagator},
        trace::{Span, SpanKind, Status, Tracer, TracerProvider},
    };
    use opentelemetry_http::{Bytes, HttpClient, HttpError};
    use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
    use opentelemetry_sdk::{
        Resource,
        propagation::TraceContextPropagator,
        trace::{SdkTracer, SdkTracerProvider},
    };
    use tokio::{net::TcpStream, runtime::Handle, time::timeout};
    use tracing::{info, warn};

    use crate::{
        config::collector::CollectorUrl,
        http::spans::{Exchange, RequestSpan, Spans, known_method},
    };

    /// How long the collector may take for one batch of spans, and for the last one when the node stops.
    const TIMEOUT: Duration = Duration::from_secs(5);
    /// The statuses that are failures of a server: `UNKNOWN`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`, `INTERNAL`, `UNAVAILABLE`, `DATA_LOSS`.
    const GRPC_FAILURES: [usize; 6] = [2, 4, 12, 13, 14, 15];
    /// Longest answer of the collector that is read.
    const ANSWER_BYTES_MAX: usize = 64 * 1024;

    /// Sends a span for each request, and for each call of gRPC.
    pub struct Exporter {
        provider: SdkTracerProvider,
        tracer: SdkTracer,
        propagator: TraceContextPropagator,
    }

    impl fmt::Debug for Exporter {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Exporter")
        }
    }

    impl Exporter {
        pub(super) fn start(endpoint: &CollectorUrl, node: &str) -> Result<Self, String> {
            let collector = Collector {
                address: endpoint.address().to_owned(),
                runtime: Handle::current(),
                is_failing: AtomicBool::new(false),
            };
            let exporter = SpanExporter::builder()
                .with_http()
                .with_http_client(collector)
                .with_protocol(Protocol::HttpJson)
                .with_endpoint(endpoint.traces())
                .with_timeout(TIMEOUT)
                .build()
                .map_err(|error| error.to_string())?;
            let resource = Resource::builder()
                .with_service_name("DynaRust")
                .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
                .build();
            let provider =
                SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
            let tracer = provider.tracer("dynarust");
            Ok(Self { provider, tracer, propagator: TraceContextPropagator::new() })
        }

        /// Sends what is left.
        pub async fn finish(&self) {
            let provider = self.provider.clone();
            // It blocks, and what it waits for needs the runtime. A failure was logged by the collector.
            let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(TIMEOUT));
            let _ = ended.await;
        }
    }

    impl Spans for Exporter {
        fn answered(&self, span: &RequestSpan<'_>) {
            let parent = self.propagator.extract(&TraceHeaders(span));
            let Described { name, mut attributes, is_failure } = described(&span.exchange);
            attributes.push(KeyValue::new("dynarust.request_id", span.request_id.to_owned()));
            let builder = self.tracer.span_builder(name);
            let builder =
                builder.with_kind(SpanKind::Server).with_start_time(span.began).with_attributes(attributes);
            let mut started = builder.start_with_context(&self.tracer, &parent);
            if is_failure {
                started.set_status(Status::error(""));
            }
            started.end_with_timestamp(span.began + span.took);
        }
    }

    /// What a span says of a request.
    struct Described {
        name: String,
        attributes: Vec<KeyValue>,
        is_failure: bool,
    }

    /// As the semantic conventions of OpenTelemetry have it.
    fn described(exchange: &Exchange<'_>) -> Described {
        match *exchange {
            Exchange::Http { method, route, status } => {
                let method = known_method(method).map(str::to_owned);
                Described {
                    name: format!("{} {route}", method.as_deref().unwrap_or("HTTP")),
                    attributes: vec![
                        KeyValue::new("http.request.method", method.unwrap_or_else(|| "_OTHER".to_owned())),
                        KeyValue::new("http.route", route),
                        KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
                    ],
                    is_failure: status.is_server_error(),
                }
            }
            Exchange::Grpc { method, code } => {
                let mut attributes = vec![
                    KeyValue::new("rpc.system", "grpc"),
                    KeyValue::new("rpc.grpc.status_code", code as i64),
                ];
                if let Some((service, method)) = method.split_once('/') {
                    attributes.push(KeyValue::new("rpc.service", service.to_owned()));
                    attributes.push(KeyValue::new("rpc.method", method.to_owned()));
                }
                Described { name: method.to_owned(), attributes, is_failure: GRPC_FAILURES.contains(&code) }
            }
        }
    }

    /// The headers of a request that name its trace.
    struct TraceHeaders<'a>(&'a RequestSpan<'a>);

    impl Extractor for TraceHeaders<'_> {
        fn get(&self, name: &str) -> Option<&str> {
            self.0.trace_header(name)
        }

        fn keys(&self) -> Vec<&str> {
            self.0.headers.keys().map(hyper::header::HeaderName::as_str).collect()
        }
    }

    /// Sends batches to the collector, one connection each: there is one in some seconds.
    struct Collector {
        address: String,
        /// Batches come from a thread of their own.
        runtime: Handle,
        /// Whether the last batch was not delivered, so that only changes are logged.
        is_failing: AtomicBool,
    }

    impl fmt::Debug for Collector {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "Collector({})", self.address)
        }
    }

    impl HttpClient for Collector {
        fn send_bytes<'life0, 'async_trait>(
            &'life0 self,
            request: Request<Bytes>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            let sending = send(self.address.clone(), request);
            let sending = self.runtime.spawn(async move { timeout(TIMEOUT, sending).await });
            Box::pin(async move {
                let sent = match sending.await {
                    Ok(Ok(sent)) => sent,
                    Ok(Err(_)) => Err(format!("no answer within {} s", TIMEOUT.as_secs()).into()),
                    Err(stopped) => Err(stopped.into()),
                };
                let failure = match &sent {
                    Ok(answer) if answer.status().is_success() => None,
                    Ok(answer) => Some(format!("it answers {}", answer.status())),
                    Err(error) => Some(error.to_string()),
                };
                match (&failure, self.is_failing.swap(failure.is_some(), Ordering::Relaxed)) {
                    (Some(why), false) => {
                        warn!("spans do not reach the collector at {} and are lost: {why}", self.address);
                    }
                    (None, true) => info!("spans reach the collector at {} again", self.address),
                    (Some(_), true) | (None, false) => {}
                }
                sent
            })
        }
    }

    async fn send(address: String, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let stream = TcpStream::connect(&address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let (mut head, body) = request.into_parts();
        head.headers.insert(hyper::header::HOST, address.parse()?);
        head.uri = head.uri.path().parse()?;
        let answer = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}
