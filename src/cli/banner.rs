//! What a node says on standard output once it serves: where, what it keeps where and how safely, and two lines to paste.
//! The last line, `listening on ADDRESS`, is for programs that started the node: it stays as it is.

use std::{fmt::Write, net::SocketAddr};

use super::{listener::reachable_here, output};
use crate::{config::Config, error::Result, storage::Durability};

/// Prints the banner of a node that accepts connections at `local`.
pub fn print(config: &Config, local: SocketAddr) -> Result<()> {
    output::print(&text(config, local))
}

/// Said of a node that was told to link with others: this version cannot.
pub const ALONE: &str = "this version serves alone: it links with no other node, and nothing is replicated";

fn text(config: &Config, local: SocketAddr) -> String {
    let scheme = if config.tls_cert.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", reachable_here(local));
    let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
    let mut rows = vec![
        ("address", url.clone()),
        ("data", data.display().to_string()),
        ("durability", describe(config.durability)),
    ];
    if !config.join.is_empty() {
        rows.push(("alone", ALONE.to_owned()));
    }
    let mut text = format!("DynaRust {}\n\n{}", env!("CARGO_PKG_VERSION"), output::table(&rows));
    let written = write!(
        text,
        "\ncurl -X PUT {url}/default/key/hello -d '{{\"value\": \"world\"}}'\ncurl {url}/default/key/hello\n\n\
         listening on {local}\n"
    );
    written.expect("writing to a string");
    text
}

fn describe(durability: Durability) -> String {
    match durability {
        Durability::Always => "always: an acknowledged write survives kill -9 and power loss".into(),
        Durability::Interval(interval) => {
            let interval = humantime::format_duration(interval);
            format!(
                "interval: a crash or power loss takes the writes of the last {interval}, acknowledged or not"
            )
        }
        Durability::None => "none: a crash or power loss takes recent writes, acknowledged or not".into(),
    }
}
