//! Shared by all commands that talk to a running node: the proof of the admin token or the cluster secret, and the errors for unexpected
//! responses.

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use dynarust_client::{
    Client, Endpoint, Error as ClientError, Method, Problem, Reason, StatusCode, Streaming, Unreachable,
};
use serde_json::{Map, Value};
use tokio::runtime::{self, Runtime};

use super::{
    Exit,
    connection::{Connection, NodeAddress, parse_address},
    environment,
    flags::DataFlags,
    output,
};
use crate::{
    error::{Error, Result},
    http::server::service,
    node::{
        AdminToken,
        admin::{Credentials, Request},
    },
};

/// How long a node may take to say something about itself.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Which node to ask, and how to print its response.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The node's address, with https:// before it if it serves HTTPS
    ///
    /// Default: what --endpoint says.
    #[arg(value_name = "ADDRESS", value_parser = parse_address)]
    address: Option<NodeAddress>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as the help of the command")]
    pub connection: Connection,
}

impl Target {
    /// A client of the node.
    ///
    /// # Errors
    /// As [`Connection::client`].
    pub fn client(&self) -> Result<Client> {
        self.connection.client(self.address.as_ref())
    }

    /// A client of a member at `address`, which the node has named.
    ///
    /// # Errors
    /// As [`Connection::client_of_member`].
    pub fn client_of_member(&self, address: &NodeAddress) -> Result<Client> {
        self.connection.client_of_member(self.address.as_ref(), address)
    }
}

/// Which node to command, and how to print its response.
#[derive(Debug, clap::Args)]
pub struct AdminTarget {
    /// The node to tell, with https:// before it if it serves HTTPS
    ///
    /// Default: what --endpoint says.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    at: Option<NodeAddress>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    connection: Connection,
    /// Data directory of the node, which has its admin token.
    #[command(flatten)]
    data: DataFlags,
}

impl AdminTarget {
    /// A client of the node, and its data directory, which may have its admin token.
    ///
    /// # Errors
    /// As [`Connection::client`], and `Config`.
    pub fn open(&self) -> Result<(Client, PathBuf)> {
        Ok((self.connection.client(self.at.as_ref())?, self.data.directory_of_running()?))
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// The exit code.
    pub exit: Exit,
    /// The message for the user.
    pub why: String,
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Invalid(_) => Exit::Usage,
            ClientError::Unreachable(tried) => return unreachable(tried),
            ClientError::Unanswered { .. } | ClientError::OutcomeUnknown { .. } => Exit::Unreachable,
            ClientError::NotANode { endpoint, detail, .. } if wants_tls(detail) => {
                return needs_tls(endpoint);
            }
            ClientError::NotANode { .. } => Exit::Unreachable,
            ClientError::Refused(problem) if wants_tls(&problem.detail) => {
                return needs_tls(&problem.endpoint);
            }
            ClientError::Refused(problem) => exit_of(problem),
            // Decode, Incomplete, and what a later version adds.
            _ => Exit::Failure,
        };
        Self { exit, why: error.to_string() }
    }
}

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        let exit = if matches!(error, Error::Config(_)) { Exit::Usage } else { Exit::Failure };
        Self { exit, why: error.to_string() }
    }
}

/// The exit code that a refusal means.
pub fn exit_of(problem: &Problem) -> Exit {
    match problem.status {
        401 | 403 => Exit::NotAllowed,
        404 => Exit::NotFound,
        412 => Exit::PreconditionFailed,
        _ => Exit::Failure,
    }
}

/// The error if no endpoint can be connected, with what to do about certificates.
fn unreachable(tried: &[Unreachable]) -> CommandError {
    let hint = |one: &Unreachable| match one.reason {
        Reason::UntrustedCertificate => {
            ": name the node's own certificate, or its authority's, with --tls-cert or DYNARUST_TLS_CERT"
        }
        Reason::OtherCertificate => ". Look at what --tls-cert or DYNARUST_TLS_CERT names",
        _ => "",
    };
    let whys: Vec<_> = tried.iter().map(|one| format!("{one}{}", hint(one))).collect();
    CommandError { exit: Exit::Unreachable, why: whys.join("; ") }
}

/// The error if the node expects HTTPS.
fn needs_tls(node: &str) -> CommandError {
    let why = format!(
        "the node at {node} serves HTTPS: ask it by https://, and name its certificate, or its authority's, with --tls-cert or \
         DYNARUST_TLS_CERT if this system does not trust it"
    );
    CommandError { exit: Exit::Unreachable, why }
}

/// What runs the futures of a command.
///
/// # Errors
/// `Io`.
pub fn runtime() -> Result<Runtime> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Error::io("cannot start the runtime", &error))
}

/// Runs the future of a command to its end, and prints its text or its error.
pub fn run_command(
    command: impl Future<Output = std::result::Result<(Exit, String), CommandError>>,
) -> Result<Exit> {
    let runtime = runtime()?;
    let ended = runtime.block_on(command);
    // A thread that waits for standard input never ends by itself.
    runtime.shutdown_background();
    match ended {
        Ok((exit, text)) => {
            output::print(&text)?;
            Ok(exit)
        }
        Err(CommandError { exit, why }) => {
            eprintln!("DynaRust: {why}");
            Ok(exit)
        }
    }
}

/// Gets the JSON object at `path`.
pub async fn get(node: &Client, path: &str) -> std::result::Result<Map<String, Value>, CommandError> {
    let answer = node.request(Method::GET, path).timeout(TIMEOUT).send().await?;
    Ok(answer.json()?)
}

/// Posts to an admin route and returns the JSON object of the response. Proves who asks as `open_admin` does.
pub async fn post_admin(
    node: &Client,
    path: &str,
    body: &Value,
    timeout: Duration,
    data: &Path,
) -> std::result::Result<Map<String, Value>, CommandError> {
    let body = Bytes::from(body.to_string());
    let answer = open_admin(node, (Method::POST, path), body, timeout, data).await?;
    Ok(answer.collect(timeout).await?.json()?)
}

/// Opens the answer of an admin route. Presents the client's token if it has one; then proves each cluster secret of the environment, then
/// the admin token in `data`, until the node accepts one. `timeout`: until the answer begins.
pub async fn open_admin(
    node: &Client,
    (method, path): (Method, &str),
    body: Bytes,
    timeout: Duration,
    data: &Path,
) -> std::result::Result<Streaming, CommandError> {
    let request = || {
        let request = node.request(method.clone(), path).body(body.clone()).timeout(timeout);
        let is_json = !body.is_empty();
        let request = if is_json { request.header("content-type", "application/json") } else { request };
        request.without_failover()
    };
    // A token without the right may stand beside a secret that proves it.
    let refused_token = match node.has_token() {
        true => match accepted(request().stream().await?).await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => Some(not_allowed_by_token(node.current_endpoint())),
            Err(refusal) if refusal.exit == Exit::NotAllowed => Some(refusal),
            Err(refusal) => return Err(refusal),
        },
        false => None,
    };
    let mut keys = environment::admin_keys()
        .map_err(|error| CommandError { exit: Exit::Usage, why: error.to_string() })?;
    let token = AdminToken::read(data);
    keys.0.extend(token.iter().map(AdminToken::key));
    // Also says whether a node answers.
    let mut nonce = challenge(node).await?;
    for (number, key) in keys.0.iter().enumerate() {
        if number > 0 {
            nonce = challenge(node).await?;
        }
        let proven = Request { method: method.as_str(), path, body: &body };
        let authorization = Credentials::answer(key, nonce, &proven).to_string();
        let answer = request().header("authorization", authorization).stream().await?;
        if let Some(answer) = accepted(answer).await? {
            return Ok(answer);
        }
    }
    let refused = || not_allowed(node.current_endpoint(), keys.0.len(), token.err(), data);
    Err(refused_token.unwrap_or_else(refused))
}

/// An answer, unless the node does not take the proof.
///
/// # Errors
/// Every other refusal.
async fn accepted(answer: Streaming) -> std::result::Result<Option<Streaming>, CommandError> {
    if answer.status.is_success() {
        return Ok(Some(answer));
    }
    if answer.status == StatusCode::UNAUTHORIZED {
        return Ok(None);
    }
    let refusal = answer.collect(TIMEOUT).await?;
    let why = format!("the node at {} answers with {}", refusal.endpoint, refusal.status);
    Err(match refusal.success() {
        Ok(_) => CommandError { exit: Exit::Failure, why },
        Err(error) => error.into(),
    })
}

/// The error if the node does not know the client's token, and nothing else proves who asks.
fn not_allowed_by_token(node: &Endpoint) -> CommandError {
    let why = format!("the node at {node} does not take the token: it is wrong, expired or revoked");
    CommandError { exit: Exit::NotAllowed, why }
}

/// The error if the node accepted none of the `keys`, or there were none.
fn not_allowed(node: &Endpoint, keys: usize, no_token: Option<Error>, data: &Path) -> CommandError {
    let secret = "set CLUSTER_SECRET, or CLUSTER_SECRET_FILE, to what the node was started with";
    let why = match no_token {
        Some(why) if keys == 0 => {
            format!(
                "the node at {node} requires its admin token or its cluster secret for this. {why}; or {secret}"
            )
        }
        Some(why) => format!("the node at {node} refuses: the cluster secret is wrong, and {why}"),
        None if keys == 1 => format!(
            "the node at {node} refuses: the admin token in {} is wrong, as it is another node's: name the data directory of this \
             node with --data, or {secret}",
            data.display()
        ),
        None => format!(
            "the node at {node} refuses: both the cluster secret and the admin token in {} are wrong",
            data.display()
        ),
    };
    CommandError { exit: Exit::NotAllowed, why }
}

async fn challenge(node: &Client) -> std::result::Result<blake3::Hash, CommandError> {
    let answer = node.request(Method::GET, "/_/admin/challenge").timeout(TIMEOUT).send().await?;
    let other = answer.not_a_node();
    let members: Map<String, Value> = answer.json()?;
    let nonce = members.get("nonce").and_then(Value::as_str);
    nonce.and_then(|nonce| blake3::Hash::from_hex(nonce).ok()).ok_or_else(|| other.into())
}

fn wants_tls(detail: &str) -> bool {
    detail == service::tls_required().to_string()
}

#[cfg(test)]
mod tests {
    use dynarust_client::Code;

    use super::*;

    #[test]
    fn problem_responses_map_to_exit_codes() {
        let ends = |status: u16, code: &str, detail: &str| {
            let problem = Problem {
                code: Code::from(code),
                status,
                detail: detail.to_owned(),
                endpoint: "a:1".into(),
                members: Map::new(),
            };
            let error = CommandError::from(ClientError::Refused(Box::new(problem)));
            (error.exit, error.why)
        };
        for (status, exit) in [
            (401, Exit::NotAllowed),
            (403, Exit::NotAllowed),
            (404, Exit::NotFound),
            (412, Exit::PreconditionFailed),
            (429, Exit::Failure),
            (503, Exit::Failure),
        ] {
            let (ended, why) = ends(status, "some-code", "because");
            assert_eq!((ended, why.as_str()), (exit, "the node at a:1 refuses: because"), "{status}");
        }
        let (ended, why) = ends(400, "bad-request", &service::tls_required().to_string());
        assert!(ended == Exit::Unreachable && why.contains("https://"), "{why}");
        let other = ClientError::NotANode { endpoint: "a:1".into(), status: 200, detail: String::new() };
        assert_eq!(CommandError::from(other).exit, Exit::Unreachable);
    }
}
