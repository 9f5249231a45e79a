//! `DynaRust strong`: what an operator does with the group of the strong tables: start it where it cannot start by itself, say who votes,
//! and who leads.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    Exit,
    remote::{self, AdminTarget},
};
use crate::error::Result;

/// Longer than the group may take to change, and a new one to start.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Starts the group of the strong tables where it cannot start by itself
    ///
    /// Without --force the node at ADDRESS starts it together with a majority of the cluster's members, if there was none before. Creating the
    /// first strong table does the same
    Init(Init),
    /// Makes a learner a voter
    Promote(Role),
    /// Makes a voter a learner, until it is promoted
    Demote(Role),
    /// Makes a voter the leader
    ///
    /// Requests to strong tables wait meanwhile, for less than a second
    Transfer(Role),
}

/// Where to start the group.
#[derive(Debug, clap::Args)]
struct Init {
    /// Start it without a majority, from what this node has
    ///
    /// Only if the others are lost for good. Answered writes that only they have are lost, and none of them may start again with its data:
    /// two groups cannot be merged. Refused where a majority answers, or another member has more of the log
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    node: AdminTarget,
}

/// Which member to change, and which node to tell.
#[derive(Debug, clap::Args)]
struct Role {
    /// The member: its id, 16 hexadecimal digits, or its address
    #[arg(value_name = "NODE")]
    member: String,
    #[command(flatten)]
    node: AdminTarget,
}

/// Does it, and prints what was done.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let role = |role: &Role, path: &str, done: &str, nothing: &str| {
        post(&role.node, path, &json!({ "node": role.member }), |answer| role_to_text(answer, done, nothing))
    };
    match &arguments.action {
        Action::Init(init) => {
            post(&init.node, "/_/strong/init", &json!({ "force": init.force }), init_to_text)
        }
        Action::Promote(it) => role(it, "/_/strong/promote", "votes now", "votes already"),
        Action::Demote(it) => {
            role(it, "/_/strong/demote", "is a learner now, until it is promoted", "is a learner already")
        }
        Action::Transfer(it) => role(it, "/_/strong/transfer", "leads now", "leads already"),
    }
}

fn post(
    target: &AdminTarget,
    path: &str,
    body: &Value,
    to_text: impl Fn(&Map<String, Value>) -> String,
) -> Result<Exit> {
    let (node, data) = target.open()?;
    remote::run_command(async {
        let answer = remote::post_admin(&node, path, body, TIMEOUT, &data).await?;
        let text = match target.json {
            true => format!("{:#}\n", Value::from(answer)),
            false => to_text(&answer),
        };
        Ok((Exit::Success, text))
    })
}

fn role_to_text(answer: &Map<String, Value>, done: &str, nothing: &str) -> String {
    let node = answer.get("node").and_then(Value::as_str).unwrap_or_default();
    let what = if answer.get("changed") == Some(&Value::Bool(true)) { done } else { nothing };
    format!("{node} {what}\n")
}

fn init_to_text(answer: &Map<String, Value>) -> String {
    let group = answer.get("group").and_then(Value::as_str).unwrap_or_default();
    let others = answer.get("others").and_then(Value::as_array).map_or(0, Vec::len);
    let started =
        format!("group {group} of the strong tables is started, and {others} other members take part\n");
    if answer.get("forced") != Some(&Value::Bool(true)) {
        return started;
    }
    format!(
        "{started}It was started without a majority. Forget the members that are lost, and never start them again with their data: each that \
         comes back needs an empty data directory.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_was_changed_and_what_a_forced_start_asks_for() {
        let object = |value: Value| value.as_object().cloned().expect("an object");
        let text = |changed| {
            role_to_text(&object(json!({ "node": "ab", "changed": changed })), "votes now", "votes already")
        };
        assert_eq!((text(true).as_str(), text(false).as_str()), ("ab votes now\n", "ab votes already\n"));
        let started =
            |forced| init_to_text(&object(json!({ "group": "0c", "forced": forced, "others": ["ab"] })));
        assert_eq!(
            started(false),
            "group 0c of the strong tables is started, and 1 other members take part\n"
        );
        assert!(started(true).starts_with(&started(false)) && started(true).contains("empty data directory"));
    }
}
