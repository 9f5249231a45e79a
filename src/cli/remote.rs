//! Shared by all commands that talk to a running node: its address, TLS and trusted certificates, the proof of the admin token or the
//! cluster secret, and the errors for unexpected responses.

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Map, Value};

use super::{Exit, environment, output};
use crate::{
    client::{Answer, Client, Endpoint, Unreachable},
    config::types::{Address, SettingType},
    error::{Error, Result},
    http::server::{service, tls},
    node::{
        AdminToken,
        admin::{Credentials, Request},
    },
};

/// The default address.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:6660";

/// A node's address as typed: `host:port`, with or without `http://` or `https://` before it.
#[derive(Clone, Debug)]
pub struct NodeAddress {
    /// Whether to use TLS; `None` if the address has no scheme.
    tls: Option<bool>,
    address: Address,
}

/// Parses an address argument.
pub fn parse_address(text: &str) -> std::result::Result<NodeAddress, String> {
    let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (Some(true), rest),
        (None, Some(rest)) => (Some(false), rest),
        (None, None) => return Ok(NodeAddress { tls: None, address: Address::parse(text)? }),
    };
    let address = Address::parse(rest.strip_suffix('/').unwrap_or(rest))?;
    Ok(NodeAddress { tls, address })
}

/// Which certificates to trust.
#[derive(Debug, clap::Args)]
pub struct Trust {
    /// Certificate to trust for HTTPS: the node's own, or its authority's
    ///
    /// A PEM file. With it the command uses HTTPS, unless the address begins with `http://`. Without it, a node at an `https://` address
    /// must have a certificate that the system trusts.
    ///
    /// [DYNARUST_TLS_CERT]
    #[arg(long = "tls-cert", value_name = "PATH")]
    certificate: Option<PathBuf>,
}

impl Trust {
    /// How to connect to the node at this address.
    ///
    /// # Errors
    /// `Config` if it uses TLS, and the certificate cannot be read, or none is given and the system has no roots.
    pub fn endpoint(&self, node: &NodeAddress) -> Result<Endpoint> {
        let address = node.address.as_str();
        if node.tls == Some(false) {
            return Ok(Endpoint::http(address));
        }
        let certificate = match &self.certificate {
            Some(named) => Some(named.clone()),
            None => environment::tls_certificate()?,
        };
        if certificate.is_none() && node.tls.is_none() {
            return Ok(Endpoint::http(address));
        }
        let trusted = certificate.map(|file| tls::certificates(&file)).transpose()?;
        Endpoint::https(address, node.address.host(), trusted)
    }
}

/// Which node to ask, and how to print its response.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The node's address, with https:// before it if it serves HTTPS
    #[arg(value_name = "ADDRESS", default_value = DEFAULT_ADDRESS, value_parser = parse_address)]
    address: NodeAddress,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as the help of the command")]
    pub trust: Trust,
}

impl Target {
    /// How to connect to the node.
    ///
    /// # Errors
    /// As [`Trust::endpoint`].
    pub fn endpoint(&self) -> Result<Endpoint> {
        self.trust.endpoint(&self.address)
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

impl From<Unreachable> for CommandError {
    fn from(unreachable: Unreachable) -> Self {
        Self { exit: Exit::Unreachable, why: unreachable.0 }
    }
}

/// Runs the future of a command to its end, and prints its text or its error.
pub fn run_command(
    command: impl Future<Output = std::result::Result<(Exit, String), CommandError>>,
) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::io("cannot start the runtime", &error))?;
    match runtime.block_on(command) {
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
pub async fn get(node: &Endpoint, path: &str) -> std::result::Result<Map<String, Value>, CommandError> {
    let answer = Client::connect(node).await?.get(path).await?;
    json_object(node, &answer)
}

/// Posts to an admin route and returns the JSON object of the response. Proves each cluster secret of the environment, then the admin
/// token in `data`, until the node accepts one.
pub async fn post_admin(
    node: &Endpoint,
    path: &str,
    body: &Value,
    timeout: Duration,
    data: &Path,
) -> std::result::Result<Map<String, Value>, CommandError> {
    let mut keys = environment::admin_keys()
        .map_err(|error| CommandError { exit: Exit::Usage, why: error.to_string() })?;
    let token = AdminToken::read(data);
    keys.0.extend(token.iter().map(AdminToken::key));
    let mut client = Client::connect(node).await?;
    let body = Bytes::from(body.to_string());
    let mut nonce = challenge(node, &mut client).await?;
    for (number, key) in keys.0.iter().enumerate() {
        if number > 0 {
            nonce = challenge(node, &mut client).await?;
        }
        let request = Request { method: "POST", path, body: &body };
        let authorization = Credentials::answer(key, nonce, &request).to_string();
        let answer = client.post(path, body.clone(), Some(authorization), timeout).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return json_object(node, &answer);
        }
    }
    Err(not_allowed(node, keys.0.len(), token.err(), data))
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

async fn challenge(node: &Endpoint, client: &mut Client) -> std::result::Result<blake3::Hash, CommandError> {
    let answer = client.get("/_/admin/challenge").await?;
    let members = json_object(node, &answer)?;
    let nonce = members.get("nonce").and_then(Value::as_str);
    nonce.and_then(|nonce| blake3::Hash::from_hex(nonce).ok()).ok_or_else(|| not_a_node(node, &answer).into())
}

/// The JSON object of a successful response, or the error that a problem response means.
fn json_object(node: &Endpoint, answer: &Answer) -> std::result::Result<Map<String, Value>, CommandError> {
    let Ok(members) = serde_json::from_slice::<Map<String, Value>>(&answer.body) else {
        return Err(not_a_node(node, answer).into());
    };
    if answer.status.is_success() {
        return Ok(members);
    }
    let exit = match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::NotAllowed,
        StatusCode::NOT_FOUND => Exit::NotFound,
        _ => Exit::Failure,
    };
    match members.get("detail").and_then(Value::as_str) {
        Some(detail) if !wants_tls(detail) => {
            Err(CommandError { exit, why: format!("the node at {node} refuses: {detail}") })
        }
        Some(_) | None => Err(not_a_node(node, answer).into()),
    }
}

/// The error for a response that a node would not give: something else answered, or the node expects HTTPS.
pub fn not_a_node(node: &Endpoint, answer: &Answer) -> Unreachable {
    let members: Map<String, Value> = serde_json::from_slice(&answer.body).unwrap_or_default();
    let detail = members.get("detail").and_then(Value::as_str).unwrap_or_default();
    if wants_tls(detail) {
        return Unreachable(format!(
            "the node at {node} serves HTTPS: ask it by https://, and name its certificate, or its authority's, with --tls-cert or \
             DYNARUST_TLS_CERT if this system does not trust it"
        ));
    }
    Unreachable(format!("{node} answers, but is not a DynaRust node: {} {detail}", answer.status))
}

fn wants_tls(detail: &str) -> bool {
    detail == service::tls_required().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_scheme() {
        for (text, tls, address) in [
            ("a:1", None, "a:1"),
            ("http://a:1", Some(false), "a:1"),
            ("https://[::1]:1/", Some(true), "[::1]:1"),
        ] {
            let parsed = parse_address(text).expect(text);
            assert_eq!((parsed.tls, parsed.address.as_str()), (tls, address), "{text}");
        }
        for text in ["https://a", "https://a:1/path", "ftp://a:1", "https://", "a"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn problem_responses_map_to_exit_codes() {
        let ends = |status: u16, body: &'static str| {
            let answer = Answer {
                status: StatusCode::from_u16(status).expect("a status"),
                body: Bytes::from_static(body.as_bytes()),
            };
            json_object(&Endpoint::http("a:1"), &answer).map_err(|refusal| (refusal.exit, refusal.why))
        };
        assert!(ends(200, r#"{"peers":1}"#).is_ok());
        for (status, exit) in [
            (401, Exit::NotAllowed),
            (403, Exit::NotAllowed),
            (404, Exit::NotFound),
            (429, Exit::Failure),
            (503, Exit::Failure),
        ] {
            let (ended, why) = ends(status, r#"{"detail":"because"}"#).expect_err("a problem");
            assert_eq!((ended, why.as_str()), (exit, "the node at a:1 refuses: because"), "{status}");
        }
        for (status, body) in [(200, "<html>"), (200, "[]"), (404, "{}"), (502, "")] {
            assert_eq!(ends(status, body).expect_err("no node").0, Exit::Unreachable, "{status} {body}");
        }
    }
}
