//! `DynaRust forget`: tells a cluster that a member will not come back, so that the cluster no longer waits for it. If it comes back all
//! the same, it takes the cluster's writes and deletions, and hands over the rows that only it has.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Exit,
    remote::{self, AdminTarget},
};
use crate::error::Result;

/// Only the node that is asked has to answer. The other members learn of it in their rounds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Which member to forget, and which node to tell.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The member: its id, 16 hexadecimal digits, or its address
    #[arg(value_name = "NODE")]
    node: String,
    /// Forget it without a majority of the members
    ///
    /// If the forgotten members are still running, they go on as a cluster of their own. When both sides meet again no value is lost,
    /// but keys that were deleted on this side may return
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    target: AdminTarget,
}

/// Forgets the member, and prints which.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let (node, data) = arguments.target.open()?;
    remote::run_command(async {
        let body = json!({ "node": arguments.node, "force": arguments.force });
        let answer = remote::post_admin(&node, "/_/admin/forget", &body, TIMEOUT, &data).await?;
        let forgotten = answer.get("forgotten").and_then(Value::as_str).unwrap_or(&arguments.node);
        let text = match arguments.target.json {
            true => format!("{:#}\n", Value::from(answer.clone())),
            false => format!(
                "{forgotten} is forgotten: the cluster no longer waits for it. If it returns, it takes the cluster's data, and the \
                 others take the rows that only it has.\n"
            ),
        };
        Ok((Exit::Success, text))
    })
}
