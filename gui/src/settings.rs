//! What the window keeps from one start to the next, and how it connects. A token is kept in memory only.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Where `distributed_kv` listens for gRPC, and the address that is tried where none was given.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:50051";
/// The port of an address that names none.
const DEFAULT_PORT: u16 = 50051;
/// The most addresses. They are tried one after the other, so that one that answers is found within minutes.
pub const ADDRESSES_MAX: usize = 64;

/// Light or dark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Theme {
    /// As the desktop has it.
    #[default]
    System,
    /// Dark text on light.
    Light,
    /// Light text on dark.
    Dark,
}

impl Theme {
    /// The one after this, for a key that goes through all.
    pub fn next(self) -> Self {
        match self {
            Self::System => Self::Light,
            Self::Light => Self::Dark,
            Self::Dark => Self::System,
        }
    }
}

/// What is kept in the settings file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The nodes, as `host:port`.
    pub addresses: Vec<String>,
    /// Whether they speak TLS.
    pub tls: bool,
    /// A file with the certificates that are trusted; empty for those of the system.
    pub ca_file: String,
    /// A file with the certificate that the nodes know this client by; empty for none.
    pub cert_file: String,
    /// A file with its private key.
    pub key_file: String,
    /// Light or dark.
    pub theme: Theme,
    /// The table that was open last.
    pub table: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            addresses: vec![DEFAULT_ADDRESS.to_owned()],
            tls: false,
            ca_file: String::new(),
            cert_file: String::new(),
            key_file: String::new(),
            theme: Theme::System,
            table: String::new(),
        }
    }
}

impl Settings {
    /// How to connect, with a token.
    pub fn connection(&self, token: &str) -> Connection {
        Connection {
            addresses: self.addresses.clone(),
            tls: self.tls,
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            token: Token(token.to_owned()),
        }
    }
}

/// How to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The nodes, as `host:port`, in the order in which they are tried.
    pub addresses: Vec<String>,
    /// Whether they speak TLS.
    pub tls: bool,
    /// A file with the certificates that are trusted; empty for those of the system.
    pub ca_file: String,
    /// A file with the certificate that the nodes know this client by; empty for none.
    pub cert_file: String,
    /// A file with its private key.
    pub key_file: String,
    /// What the node asks for, if it asks for one.
    pub token: Token,
}

/// A token. Its `Debug` does not show it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "Token()" } else { "Token(***)" })
    }
}

/// The addresses in a text: one a line, or with commas between.
///
/// # Errors
/// What is wrong with one of them.
pub fn parse_addresses(text: &str) -> Result<Vec<String>, String> {
    let parts = text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty());
    let mut addresses = Vec::new();
    for part in parts {
        let address = parse_address(part)?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    match addresses.len() {
        0 => Err(format!("give the address of a node, such as {DEFAULT_ADDRESS}")),
        1..=ADDRESSES_MAX => Ok(addresses),
        more => Err(format!(
            "{more} addresses are too many: give at most {ADDRESSES_MAX}, those of some nodes of the cluster are enough"
        )),
    }
}

/// An address: `host:port`, `[v6]:port`, a port alone, or a host alone.
///
/// # Errors
/// What is wrong.
pub fn parse_address(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return Err(format!("{text}: leave out what stands before the host; TLS is a switch of its own"));
    }
    if let Ok(port) = text.parse::<u16>() {
        return Ok(format!("127.0.0.1:{port}"));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') && !host.starts_with('[') => {
            return Err(format!("{text}: write an address of IPv6 as [host]:port"));
        }
        Some((host, port)) => {
            let port = port.parse::<u16>().ok().filter(|port| *port > 0);
            (host, port.ok_or_else(|| format!("{text}: the port is a number from 1 to 65535"))?)
        }
        None => (text, DEFAULT_PORT),
    };
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._[]:%".contains(letter);
    if host.is_empty() || !host.chars().all(is_plain) {
        return Err(format!("{text}: write host:port, such as {DEFAULT_ADDRESS}"));
    }
    Ok(format!("{host}:{port}"))
}

/// What is said where a token goes to another machine in plain text.
pub const PLAIN_TOKEN: &str = "Without TLS the token can be read on the way to the node.";

/// Whether a token goes to another machine without TLS, where others can read it.
pub fn is_plain_token(tls: bool, token: &str, addresses: &[String]) -> bool {
    !tls && !token.is_empty() && !addresses.iter().all(|address| is_local(address))
}

/// Whether an address, as `host:port`, is of this machine.
fn is_local(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_ports_one_a_line_or_with_commas() {
        let expected = ["127.0.0.1:50051", "node-2:50061", "[::1]:7", "10.0.0.3:50051"].map(str::to_owned);
        assert_eq!(
            parse_addresses("50051\nnode-2:50061, [::1]:7\n\n10.0.0.3\n127.0.0.1:50051"),
            Ok(expected.to_vec())
        );
        for (text, word) in [
            ("", "give the address"),
            ("http://a:1", "leave out"),
            ("a:0", "65535"),
            ("a:b", "65535"),
            ("::1:5", "[host]:port"),
            ("a b:1", "host:port"),
        ] {
            let error = parse_addresses(text).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
        let many = (0..65).map(|at| format!("n{at}")).collect::<Vec<_>>().join(",");
        assert!(parse_addresses(&many).is_err_and(|error| error.contains("at most 64")));
    }

    #[test]
    fn what_is_kept_has_no_token() {
        let settings = Settings::default();
        let connection = settings.connection("hush");
        assert_eq!(connection.token.0, "hush");
        assert!(!format!("{connection:?}").contains("hush"));
        let kept = serde_json::to_string(&settings).expect("JSON");
        assert!(!kept.contains("token"), "{kept}");
    }
}
