//! What a node prints to standard output once it serves requests. On a terminal: its address, data directory, durability and cluster, and
//! two commands to try. The last line, `listening on ADDRESS`, is always printed: programs that start a node wait for it, so it must not
//! change. With a JSON log nothing is printed, as containers merge both streams; the first log line has the address.

use std::{
    fmt::Write,
    io::{IsTerminal, stdout},
    net::SocketAddr,
};

use tracing::info;

use super::{access, listener::reachable_here, output};
use crate::{
    config::{Config, types::LogFormat},
    error::Result,
    http::server::{certificate, tls},
    node::ClusterView,
    storage::Durability,
};

/// For a node without access control that other machines can reach; the log says it as well (`access::warn_if_open`).
const OPEN: &str = "everyone who reaches this port can read and write all data: see --tokens and --no-auth";
/// For a node without a secret that other machines can reach.
const NO_SECRET: &str = "without CLUSTER_SECRET only nodes of this machine can join";

/// Prints the banner of a node that listens at `local`. `is_open` means that it has no secret.
pub fn print(config: &Config, local: SocketAddr, is_open: bool, cluster: &ClusterView) -> Result<()> {
    let is_terminal = stdout().is_terminal();
    if is_reachable(local) && is_open && !(is_terminal && config.log_format == LogFormat::Text) {
        info!("{NO_SECRET}");
    }
    match config.log_format {
        LogFormat::Json => Ok(()),
        LogFormat::Text if is_terminal => output::print(&text(config, local, is_open, cluster)),
        LogFormat::Text => output::print(&listening(local)),
    }
}

/// The URL of a node on this machine that listens at `local`.
pub fn url(config: &Config, local: SocketAddr) -> String {
    let scheme = if config.tls_cert.is_some() { "https" } else { "http" };
    format!("{scheme}://{}", reachable_here(local))
}

fn listening(local: SocketAddr) -> String {
    format!("listening on {local}\n")
}

/// Whether other machines may be able to reach it.
fn is_reachable(local: SocketAddr) -> bool {
    !local.ip().to_canonical().is_loopback()
}

fn text(config: &Config, local: SocketAddr, is_open: bool, cluster: &ClusterView) -> String {
    let url = url(config, local);
    let curl = format!("curl{}", trust(config));
    let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
    let here = reachable_here(local).to_string();
    let mut rows = vec![
        ("address", url.clone()),
        ("data", data.display().to_string()),
        ("durability", describe(config.durability)),
        ("cluster", describe_cluster(config, cluster, if is_open { &here } else { &cluster.address })),
    ];
    if access::is_open(config, local) {
        rows.push(("open", OPEN.to_owned()));
    }
    if is_open && is_reachable(local) {
        rows.push(("secret", NO_SECRET.to_owned()));
    }
    let mut text = format!("DynaRust {}\n\n{}", env!("CARGO_PKG_VERSION"), output::table(&rows));
    let written = write!(
        text,
        "\n{curl} -X PUT {url}/default/key/hello -d '{{\"value\": \"world\"}}'\n{curl} {url}/default/key/hello\n\n\
         {}",
        listening(local)
    );
    written.expect("writing to a string");
    text
}

/// What curl needs to trust the node's certificate: the file, if it ends in one that nobody trusts without being told to.
fn trust(config: &Config) -> String {
    let Some(file) = &config.tls_cert else { return String::new() };
    let chain = tls::certificates(file).unwrap_or_default();
    let is_private = chain.last().is_some_and(|last| certificate::is_self_signed(last));
    if is_private { format!(" --cacert {}", output::quoted(file)) } else { String::new() }
}

/// `address` is where nodes that may join reach this one.
fn describe_cluster(config: &Config, cluster: &ClusterView, address: &str) -> String {
    let join: Vec<_> = config.join.iter().map(|address| address.as_str()).collect();
    match (cluster.members.len() - 1, join.as_slice()) {
        (0, []) => format!("none yet; to join another node: DynaRust <LISTEN> {address}"),
        (0, join) => format!("joining {}", join.join(", ")),
        (1, _) => "this node and 1 other that it knows from before".into(),
        (others, _) => format!("this node and {others} others that it knows from before"),
    }
}

fn describe(durability: Durability) -> String {
    match durability {
        Durability::Always => "always: an acknowledged write survives kill -9 and power loss".into(),
        Durability::Interval(interval) => {
            let interval = humantime::format_duration(interval);
            format!(
                "interval: a crash or power loss loses the writes of the last {interval}, acknowledged or not"
            )
        }
        Durability::None => "none: a crash or power loss loses recent writes, acknowledged or not".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Layers, Texts},
        core::{clock::NodeId, protocol::replica::Swept},
        node::{MemberState, MemberView, SyncStatus},
    };

    fn banner(join: &str, listen: &str, is_open: bool, others: u64) -> String {
        let flags: Texts = [("join", join.to_owned())].into_iter().collect();
        let config = Config::new(&Layers { flags, ..Layers::default() }.settings()).expect("valid");
        text(&config, listen.parse().expect("an address"), is_open, &view(others))
    }

    fn view(others: u64) -> ClusterView {
        let member = |node: u64| MemberView::new(NodeId(node), format!("a:{node}"), MemberState::Down);
        ClusterView {
            cluster: 1,
            node: NodeId(0),
            address: "node0:6660".into(),
            incarnation: 1,
            progress: SyncStatus::Complete,
            kept_without_majority: 0,
            clock: crate::node::ClockState::default(),
            floor_ms: 0,
            swept: Swept::default(),
            zombies_refused: 0,
            members: (0..=others).map(member).collect(),
            strong: None,
            strong_etcd: None,
            strong_failure: None,
        }
    }

    #[test]
    fn it_shows_the_cluster_and_how_to_join_it() {
        for (join, is_open, others, words) in [
            ("", true, 0, "none yet; to join another node: DynaRust <LISTEN> 127.0.0.1:6660\n"),
            ("", false, 0, "none yet; to join another node: DynaRust <LISTEN> node0:6660\n"),
            ("127.0.0.1:1,localhost:2", true, 0, "joining 127.0.0.1:1, localhost:2\n"),
            ("127.0.0.1:1", true, 2, "this node and 2 others that it knows from before\n"),
        ] {
            let banner = banner(join, "127.0.0.1:6660", is_open, others);
            assert!(banner.contains(&format!("cluster     {words}")), "{banner}");
            assert!(banner.ends_with("\n\nlistening on 127.0.0.1:6660\n"), "{banner}");
        }
    }

    #[test]
    fn the_lines_to_try_trust_the_certificate_of_the_node() {
        let fixture = |name: &str| format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        let banner = |cert: &str, key: &str| {
            let flags: Texts = [("tls-cert", fixture(cert)), ("tls-key", fixture(key))].into_iter().collect();
            let config = Config::new(&Layers { flags, ..Layers::default() }.settings()).expect("valid");
            text(&config, "127.0.0.1:6660".parse().expect("an address"), true, &view(0))
        };
        let own = banner("certificate.pem", "key.pem");
        let curl = format!(
            "\ncurl --cacert {} https://127.0.0.1:6660/default/key/hello\n",
            fixture("certificate.pem")
        );
        assert!(own.contains(&curl), "{own}");
        let signed = banner("signed.pem", "signed-key.pem");
        assert!(signed.contains("\ncurl https://127.0.0.1:6660/default/key/hello\n"), "{signed}");
    }

    #[test]
    fn a_reachable_node_without_tokens_or_a_secret_says_so() {
        for listen in ["0.0.0.0:6660", "192.0.2.1:6660", "[::]:6660"] {
            let open = banner("", listen, true, 0);
            for words in ["\nopen ", "everyone who reaches this port", "\nsecret ", "CLUSTER_SECRET"] {
                assert!(open.contains(words), "{open}");
            }
            assert!(!banner("", listen, false, 0).contains("\nsecret "), "{listen}");
        }
        for listen in ["127.0.0.1:6660", "[::1]:6660", "[::ffff:127.0.0.1]:6660"] {
            let banner = banner("", listen, true, 0);
            assert!(!banner.contains("\nopen ") && !banner.contains("\nsecret "), "{banner}");
        }
    }
}
