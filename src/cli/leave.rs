//! `DynaRust leave`: a running node hands over its data, tells the cluster that it leaves for good, and stops. To stop a node that will
//! come back, send SIGTERM instead.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Exit,
    flags::DataFlags,
    remote::{self, Target},
};
use crate::error::Result;

/// How long the command waits for the hand-over. After that the node goes on with it.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Which node leaves.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Data directory of the node, which has its admin token.
    #[command(flatten)]
    data: DataFlags,
}

/// Waits until the node has handed over its data, and prints the result.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let client = arguments.target.client()?;
    let data = arguments.data.directory_of_running()?;
    remote::run_command(async {
        let answer = remote::post_admin(&client, "/_/admin/leave", &json!({}), TIMEOUT, &data).await?;
        let node = client.current_endpoint();
        let text = match answer.get("peers").and_then(Value::as_u64) {
            _ if arguments.target.json => format!("{:#}\n", Value::from(answer.clone())),
            Some(0) | None => format!(
                "the node at {node} stops. There was no other member to hand its data to: the data stays in its directory, and a node \
                 started on it serves it again.\n"
            ),
            Some(peers) => format!(
                "the node at {node} has handed everything over and left for good; members that go on: {peers}. Its \
                 directory can be deleted.\n"
            ),
        };
        Ok((Exit::Success, text))
    })
}
