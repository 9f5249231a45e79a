//! `DynaRust sync`: a running node compares its data with every peer now, instead of when a round finds a difference.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Exit,
    flags::DataFlags,
    remote::{self, Target},
};
use crate::error::Result;

/// The node starts the comparisons and answers at once.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Which node compares its data.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Data directory of the node, which has its admin token.
    #[command(flatten)]
    data: DataFlags,
}

/// Starts the comparisons, and prints how many.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let client = arguments.target.client()?;
    let data = arguments.data.directory_of_running()?;
    remote::run_command(async {
        let answer = remote::post_admin(&client, "/_/admin/sync", &json!({}), TIMEOUT, &data).await?;
        let node = client.current_endpoint();
        let text = match answer.get("peers").and_then(Value::as_u64) {
            _ if arguments.target.json => format!("{:#}\n", Value::from(answer.clone())),
            Some(0) | None => {
                format!("the node at {node} is linked with no other node: there is nothing to compare\n")
            }
            Some(peers) => format!(
                "the node at {node} compares its data with its peers ({peers}); `DynaRust members {node}` shows when they are in step\n"
            ),
        };
        Ok((Exit::Success, text))
    })
}
