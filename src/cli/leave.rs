//! `DynaRust leave`: a running node hands everything over, tells the cluster that it will not come back, and stops. For one
//! that comes back, SIGTERM is the way to stop.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Exit,
    flags::DataFlags,
    remote::{self, Target},
};
use crate::error::Result;

/// How long handing over may take. The node goes on with it if nobody waits.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Which node is to go.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Where the node's admin token is.
    #[command(flatten)]
    data: DataFlags,
}

/// Waits until the node has handed over, and says so.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let node = arguments.target.endpoint()?;
    let data = arguments.data.directory_of_running()?;
    remote::run_command(async {
        let answer = remote::post_admin(&node, "/_/admin/leave", &json!({}), TIMEOUT, &data).await?;
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
