//! What the commands that ask a running node have in common: its address, the proof of the cluster secret where it wants one,
//! and what becomes of an answer that is none.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Map, Value};

use super::{Exit, output, secret};
use crate::{
    client::{Answer, Client, Unreachable},
    config::kinds::{Address, Kind},
    error::{Error, Result},
    node::admin::{Credentials, Request},
};

/// The address that is asked where none is given.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:6660";

/// Reads an address from an argument.
pub fn parse_address(text: &str) -> std::result::Result<Address, String> {
    Address::parse(text)
}

/// A node to ask, and how to print its answer.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The node's address
    #[arg(value_name = "ADDRESS", default_value = DEFAULT_ADDRESS, value_parser = parse_address)]
    pub address: Address,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Why a command did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// How the command ends.
    pub exit: Exit,
    /// What to say.
    pub why: String,
}

impl From<Unreachable> for Refusal {
    fn from(unreachable: Unreachable) -> Self {
        Self { exit: Exit::Unreachable, why: unreachable.0 }
    }
}

/// Runs a command's conversation with a node to its end, and prints the text that it comes to, or why it came to none.
pub fn converse(
    conversation: impl Future<Output = std::result::Result<(Exit, String), Refusal>>,
) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::io("cannot start the runtime", &error))?;
    match runtime.block_on(conversation) {
        Ok((exit, text)) => {
            output::print(&text)?;
            Ok(exit)
        }
        Err(Refusal { exit, why }) => {
            eprintln!("DynaRust: {why}");
            Ok(exit)
        }
    }
}

/// Asks a node for the JSON object at `path`.
pub async fn look(address: &str, path: &str) -> std::result::Result<Map<String, Value>, Refusal> {
    let answer = Client::connect(address).await?.get(path).await?;
    members_of(address, &answer)
}

/// Tells a node to do what `path` is for, with the proof of each secret in the environment until one is right; the JSON object
/// that it answers.
pub async fn order(
    address: &str,
    path: &str,
    body: &Value,
    patience: Duration,
) -> std::result::Result<Map<String, Value>, Refusal> {
    let keys =
        secret::from_environment().map_err(|error| Refusal { exit: Exit::Usage, why: error.to_string() })?;
    let mut client = Client::connect(address).await?;
    let body = Bytes::from(body.to_string());
    let mut answer = None;
    for key in &keys.0 {
        let nonce = challenge(address, &mut client).await?;
        let request = Request { method: "POST", path, body: &body };
        let authorization = Credentials::answer(key, nonce, &request).to_string();
        let given = client.post(path, body.clone(), Some(authorization), patience).await?;
        let refused = given.status == StatusCode::UNAUTHORIZED;
        answer = Some(given);
        if !refused {
            break;
        }
    }
    let answer = match answer {
        Some(answer) => answer,
        None => client.post(path, body, None, patience).await?,
    };
    if answer.status == StatusCode::UNAUTHORIZED && keys.is_empty() {
        return Err(Refusal {
            exit: Exit::NotAllowed,
            why: format!(
                "the node at {address} wants its cluster secret for this: set CLUSTER_SECRET, or CLUSTER_SECRET_FILE, to what \
                 the node was started with"
            ),
        });
    }
    members_of(address, &answer)
}

async fn challenge(address: &str, client: &mut Client) -> std::result::Result<blake3::Hash, Refusal> {
    let members = members_of(address, &client.get("/_/admin/challenge").await?)?;
    let nonce = members.get("nonce").and_then(Value::as_str);
    nonce.and_then(|nonce| blake3::Hash::from_hex(nonce).ok()).ok_or_else(|| foreign(address, "no challenge"))
}

/// The members of a node's answer, or what its problem means to the one who asked.
fn members_of(address: &str, answer: &Answer) -> std::result::Result<Map<String, Value>, Refusal> {
    let Ok(members) = serde_json::from_slice::<Map<String, Value>>(&answer.body) else {
        return Err(foreign(address, &answer.status.to_string()));
    };
    if answer.status.is_success() {
        return Ok(members);
    }
    let exit = match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::NotAllowed,
        StatusCode::NOT_FOUND => Exit::NotFound,
        _ => Exit::Failure,
    };
    let detail = members.get("detail").and_then(Value::as_str);
    let detail = detail.ok_or_else(|| foreign(address, &answer.status.to_string()))?;
    Err(Refusal { exit, why: format!("the node at {address} refuses: {detail}") })
}

fn foreign(address: &str, what: &str) -> Refusal {
    Refusal { exit: Exit::Unreachable, why: format!("{address} answers, but not as a node does: {what}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_a_problem_ends_as_the_contract_says() {
        let ends = |status: u16, body: &'static str| {
            let answer = Answer {
                status: StatusCode::from_u16(status).expect("a status"),
                body: Bytes::from_static(body.as_bytes()),
            };
            members_of("a:1", &answer).map_err(|refusal| (refusal.exit, refusal.why))
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
