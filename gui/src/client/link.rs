//! Keeps one connection: tries the addresses in turn, asks the node every two seconds how it is, and goes on to the next address when it
//! does not answer.

use std::{error::Error, fs, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{
    convert,
    proto::{ClusterRequest, TablesRequest, kv_client::KvClient},
};
use crate::{message::Message, settings::Connection};

/// How long a node may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a node may take to answer a call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the node is asked how it is.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// A node that is cut off is found out by this.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause before the next address is tried, as long as there is one that was not; and the pauses after all of them have failed.
const NEXT_PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The longest answer that is taken: a value, with what is around it.
const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The largest file of certificates, or of a key.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// The client that is generated, with the token in each call.
pub type Kv = KvClient<InterceptedService<Channel, Auth>>;

/// Adds the token to calls.
#[derive(Clone)]
pub struct Auth(Option<MetadataValue<Ascii>>);

impl Interceptor for Auth {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(credentials) = &self.0 {
            request.metadata_mut().insert("authorization", credentials.clone());
        }
        Ok(request)
    }
}

/// What becomes of the connection.
pub enum Linked {
    /// There is one.
    Up {
        /// The address.
        address: String,
        /// The client of it.
        kv: Kv,
    },
    /// What the window is to know.
    Told(Message),
}

/// Why there is no connection, or none any more.
enum End {
    /// Another attempt may succeed.
    Lost(String),
    /// It would not.
    Refused(String),
}

/// Keeps a connection until nobody wants it. `nudge` ends a pause.
pub async fn keep(connection: Connection, links: mpsc::Sender<Linked>, nudge: Arc<Notify>) {
    let mut failures = 0_u32;
    for address in connection.addresses.iter().cycle() {
        if links.send(Linked::Told(Message::Connecting { address: address.clone() })).await.is_err() {
            return;
        }
        let end = match open(&connection, address).await {
            Ok(kv) => attend(kv, address, &links, &nudge, &mut failures).await,
            Err(end) => end,
        };
        failures = failures.saturating_add(1);
        let (address, pause) = (address.clone(), pause(failures, connection.addresses.len()));
        let message = match end {
            End::Lost(why) => Message::Lost { address, why, retry_ms: pause.as_millis() as u64 },
            End::Refused(why) => {
                // The window connects anew once something was changed.
                drop(links.send(Linked::Told(Message::Refused { address, why })).await);
                return;
            }
        };
        if links.send(Linked::Told(message)).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = nudge.notified() => {}
        }
    }
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32, addresses: usize) -> Duration {
    match failures.checked_sub(u32::try_from(addresses).unwrap_or(u32::MAX)) {
        None => NEXT_PAUSE,
        Some(rounds) => (PAUSE_MIN * 2_u32.pow(rounds.min(8))).min(PAUSE_MAX),
    }
}

async fn open(connection: &Connection, address: &str) -> Result<Kv, End> {
    let endpoint = endpoint(connection, address).map_err(End::Refused)?;
    let channel = timeout(CONNECT_TIMEOUT, endpoint.connect()).await;
    let channel = channel
        .map_err(|_| End::Lost(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())))?
        .map_err(|error| End::Lost(reason(&error)))?;
    let token = &connection.token.0;
    let credentials = (!token.is_empty()).then(|| format!("Bearer {token}").parse()).transpose();
    let credentials =
        credentials.map_err(|_| End::Refused("the token has a character that a header cannot have: give it in printable ASCII, without spaces or line ends".into()))?;
    Ok(KvClient::with_interceptor(channel, Auth(credentials)).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

fn endpoint(connection: &Connection, address: &str) -> Result<Endpoint, String> {
    let scheme = if connection.tls { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|error| reason(&error))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    if !connection.tls {
        return Ok(endpoint);
    }
    let tls = ClientTlsConfig::new();
    let tls = match connection.ca_file.as_str() {
        "" => tls.with_native_roots(),
        path => tls.ca_certificate(Certificate::from_pem(pem(path)?)),
    };
    let tls = match (connection.cert_file.as_str(), connection.key_file.as_str()) {
        ("", _) => tls,
        (certificate, key) => tls.identity(Identity::from_pem(pem(certificate)?, pem(key)?)),
    };
    endpoint.tls_config(tls).map_err(|error| reason(&error))
}

fn pem(path: &str) -> Result<String, String> {
    let length = fs::metadata(path).map_err(|error| format!("{path}: {error}"))?.len();
    if length > PEM_BYTES_MAX {
        return Err(format!(
            "{path}: the file has {length} bytes, and at most {PEM_BYTES_MAX} are read: name a PEM file that has only what is needed"
        ));
    }
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

/// Asks a node how it is, again and again, until it does not answer.
async fn attend(
    mut kv: Kv,
    address: &str,
    links: &mpsc::Sender<Linked>,
    nudge: &Notify,
    failures: &mut u32,
) -> End {
    let mut is_up = false;
    loop {
        let began = Instant::now();
        let cluster = match call(kv.cluster(deadline(ClusterRequest {}))).await {
            Ok(cluster) => Ok(convert::cluster(cluster)),
            Err(status) => match status.code() {
                Code::Unauthenticated => return End::Refused(convert::failure(&status)),
                Code::PermissionDenied | Code::ResourceExhausted => Err(convert::failure(&status)),
                Code::Unimplemented => {
                    Err("this node tells nothing of its cluster: its version is older".into())
                }
                _ => return End::Lost(convert::failure(&status)),
            },
        };
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !is_up {
            is_up = true;
            *failures = 0;
            let up = Linked::Up { address: address.to_owned(), kv: kv.clone() };
            if links.send(up).await.is_err() {
                return End::Lost("nobody wants the connection".into());
            }
        }
        let tables = call(kv.tables(deadline(TablesRequest {}))).await;
        let tables = tables.map(convert::tables).map_err(|status| convert::failure(&status));
        for message in [Message::Cluster(cluster, took_ms), Message::Tables(tables)] {
            if links.send(Linked::Told(message)).await.is_err() {
                return End::Lost("nobody wants the connection".into());
            }
        }
        tokio::select! {
            () = sleep(LOOK_INTERVAL) => {}
            () = nudge.notified() => {}
        }
    }
}

/// A request that the node, too, ends in time.
pub fn deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// The answer to a call, which comes in time or not at all.
///
/// # Errors
/// The status of the call.
pub async fn call<T>(answer: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    match timeout(CALL_TIMEOUT + Duration::from_millis(500), answer).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))),
    }
}

/// What went wrong, with the causes, which tonic leaves out.
pub fn reason(error: &dyn Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
        source = error.source();
    }
    // The first says only that the transport has failed.
    if texts.len() > 1 && texts[0] == "transport error" {
        texts.remove(0);
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_tried_before_pauses_grow() {
        let pauses: Vec<_> = (1..=8).map(|failures| pause(failures, 3).as_millis()).collect();
        assert_eq!(pauses, [100, 100, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(pause(u32::MAX, 1), PAUSE_MAX);
    }
}
