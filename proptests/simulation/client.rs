//! Clients of simulated nodes: requests as curl would make them, and what a client knows after each.

use std::{collections::BTreeMap, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1, http::request::Builder};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout, timeout_at};
use turmoil::net::TcpStream;

use super::stack::{PORT, name};

/// How long a client waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What a node answered.
pub struct Answer {
    pub status: u16,
    pub version: Option<String>,
    pub body: String,
}

/// What became of a request.
pub enum Sent {
    /// The node never had it.
    Never,
    /// It may have been done or not.
    Unanswered,
    Answered(Answer),
}

/// Asks a node. `None` where no answer came, and what was asked may have been done or not.
pub async fn ask(node: usize, method: Method, path: &str, body: &str) -> Option<Answer> {
    match send(node, Request::builder().method(method).uri(path), body).await {
        Sent::Answered(answer) => Some(answer),
        Sent::Never | Sent::Unanswered => None,
    }
}

/// Sends a request to a node.
pub async fn send(node: usize, request: Builder, body: &str) -> Sent {
    let begun = Instant::now();
    let Ok(Ok(stream)) = timeout(TIMEOUT, TcpStream::connect((name(node), PORT))).await else {
        return Sent::Never;
    };
    match timeout_at(begun + TIMEOUT, exchange(stream, request, body)).await {
        Ok(Ok(answer)) => Sent::Answered(answer),
        Ok(Err(_)) | Err(_) => Sent::Unanswered,
    }
}

async fn exchange(
    stream: TcpStream,
    request: Builder,
    body: &str,
) -> Result<Answer, Box<dyn std::error::Error>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer, or with the request that is given up.
    tokio::spawn(connection);
    // The name of a simulated host is none that the node is known by.
    let request = request.header("host", "localhost").body(Full::new(Bytes::from(body.to_owned())))?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let version = response.headers().get("dynarust-version").map(|text| text.to_str().map(str::to_owned));
    let version = version.transpose()?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer { status, version, body: String::from_utf8(body.to_vec())? })
}

/// What was done to a key, as far as its clients know.
#[derive(Default)]
pub struct History {
    keys: BTreeMap<String, Vec<Deed>>,
}

/// One write of one client.
struct Deed {
    /// The number that was put; `None` for a delete.
    put: Option<u64>,
    /// Whether it goes away by itself.
    expires: bool,
    /// Its version, where it was acknowledged.
    version: Option<String>,
}

impl Deed {
    /// Whether nothing may be there after it, where `latest` was acknowledged last.
    fn ends_at(&self, latest: &str) -> bool {
        (self.put.is_none() || self.expires)
            && self.version.as_deref().is_none_or(|version| version == latest)
    }
}

impl History {
    /// Notes what a client wrote. `version`: of what was acknowledged.
    pub fn note(&mut self, path: &str, put: Option<u64>, expires: bool, version: Option<String>) {
        self.keys.entry(path.to_owned()).or_default().push(Deed { put, expires, version });
    }

    /// The paths of all keys that were written.
    pub fn paths(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.keys.values().flatten().filter(|deed| deed.version.is_some()).count()
    }

    /// Whether what a node answers in the end can be: the latest of what was acknowledged, or something later that was not.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, path: &str, answer: &Answer) -> Result<(), String> {
        let deeds = &self.keys[path];
        let latest = deeds.iter().filter_map(|deed| deed.version.as_deref()).max().unwrap_or_default();
        match answer.status {
            200 => {
                let version = answer.version.as_deref().unwrap_or_default();
                let deed = deeds.iter().find(|deed| {
                    deed.put.is_some_and(|number| answer.body == format!("{{\"value\":{number}}}"))
                });
                let Some(deed) = deed else { return Err(format!("{path}: {} was never put", answer.body)) };
                let is_later = version >= latest;
                // What only a node had that joined late is written anew, unless it was followed by what others acknowledged.
                let is_itself = deed.version.as_deref().is_none_or(|said| {
                    said == version || said == latest || deeds.iter().any(|deed| deed.ends_at(latest))
                });
                match is_later && is_itself {
                    true => Ok(()),
                    false => Err(format!(
                        "{path}: {} of {version} is there, which was acknowledged as {:?}, and {latest} the last",
                        answer.body, deed.version
                    )),
                }
            }
            404 => {
                let ended = deeds.iter().any(|deed| deed.ends_at(latest));
                let never = deeds.iter().all(|deed| deed.version.is_none());
                match ended || never {
                    true => Ok(()),
                    false => Err(format!("{path}: nothing is there, {latest} was acknowledged")),
                }
            }
            status => Err(format!("{path}: answered {status} {}", answer.body)),
        }
    }
}
