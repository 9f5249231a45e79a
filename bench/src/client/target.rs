//! What is loaded, and the requests for it. A request is built as bytes ahead of time, so that sending it is a single write. By gRPC it is the
//! message of a call, whose method is [`GET`] or [`PUT`].

use std::{
    fmt,
    io::Write,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use super::calls;
use crate::error::{Error, Result};

/// The key that all subscribers of the fan-out follow; the bare fan-out server knows it by this name.
pub const FANOUT_KEY: &str = "fanout";

/// The methods that read and write a key, where a target takes gRPC.
pub const GET: &str = "/etcdserverpb.KV/Range";
/// See [`GET`].
pub const PUT: &str = "/etcdserverpb.KV/Put";

/// What is loaded.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct TargetOptions {
    /// Address of the target
    #[arg(long, default_value = "127.0.0.1:6660")]
    pub address: String,
    /// What listens there
    #[arg(long, value_enum, default_value_t)]
    pub target: Kind,
    /// Allow a target on another machine: its figures include the network
    #[arg(long)]
    pub allow_remote: bool,
    /// Process id of the target, to report its resident memory
    #[arg(long)]
    pub pid: Option<u32>,
    /// Storage directory of the target, to report its size on disk
    #[arg(long)]
    pub data: Option<PathBuf>,
}

/// What listens at the target's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A node, or a bare server.
    #[default]
    Dynarust,
    /// etcd, by its JSON gateway: get, put and mixed only.
    Etcd,
    /// etcd, or a node with --etcd, by gRPC: get, put and mixed only.
    EtcdGrpc,
}

/// A target that may be loaded: its address is checked.
#[derive(Clone, Debug)]
pub struct Target {
    /// What it is.
    pub kind: Kind,
    /// Where it listens.
    pub address: SocketAddr,
    /// The table that is used.
    pub table: String,
    /// Its process, where that is known.
    pub pid: Option<u32>,
    /// Its storage directory, where that is known.
    pub data: Option<PathBuf>,
}

impl Target {
    /// Resolves the address of a target.
    ///
    /// # Errors
    /// `Usage` where it is no address, or that of another machine without `--allow-remote`.
    pub fn resolve(options: &TargetOptions, table: &str) -> Result<Self> {
        let TargetOptions { address, target: kind, allow_remote, pid, data } = options.clone();
        let host_and_port = address.trim_start_matches("http://").trim_end_matches('/');
        let resolved = host_and_port.to_socket_addrs().ok().and_then(|mut all| all.next());
        let Some(resolved) = resolved else {
            return Err(Error::Usage(format!(
                "--address {address} is not a host and port such as 127.0.0.1:6660"
            )));
        };
        if !resolved.ip().is_loopback() && !allow_remote {
            return Err(Error::Usage(format!(
                "--address {address} is not on this machine: a benchmark is an attack on a node that others use; \
                 add --allow-remote if the node is yours"
            )));
        }
        Ok(Self { kind, address: resolved, table: table.to_owned(), pid, data })
    }

    /// A node at `address`, and the table to use.
    pub fn node(address: SocketAddr, table: &str) -> Self {
        Self { kind: Kind::Dynarust, address, table: table.to_owned(), pid: None, data: None }
    }

    /// A request that asks whether the node is ready.
    pub fn ready(&self) -> Vec<u8> {
        let mut request = Vec::new();
        self.head("GET /readyz", None, &mut request);
        request
    }

    /// Fails where the target is no node; `workload` needs one.
    pub fn expect_node(&self, workload: &str) -> Result<()> {
        match self.kind {
            Kind::Dynarust => Ok(()),
            Kind::Etcd | Kind::EtcdGrpc => {
                Err(Error::Usage(format!("{workload} needs a DynaRust node; etcd takes get, put and mixed")))
            }
        }
    }

    /// A key or a value as the bodies of this target have it: as it is, or in base64.
    pub fn encoded(&self, text: &str) -> String {
        match self.kind {
            Kind::Dynarust | Kind::EtcdGrpc => text.to_owned(),
            Kind::Etcd => {
                let mut encoded = Vec::new();
                base64(text.as_bytes(), &mut encoded);
                String::from_utf8_lossy(&encoded).into_owned()
            }
        }
    }

    /// Appends a read of `key` to `request`.
    pub fn get(&self, key: &str, request: &mut Vec<u8>) {
        match self.kind {
            Kind::Dynarust => self.head(&format!("GET /{}/key/{key}", self.table), None, request),
            Kind::Etcd => {
                let mut body = br#"{"key":""#.to_vec();
                base64(key.as_bytes(), &mut body);
                body.extend_from_slice(br#""}"#);
                self.with_body("POST /v3/kv/range", &[&body], request);
            }
            Kind::EtcdGrpc => calls::message(&[key.as_bytes()], request),
        }
    }

    /// Appends a write of `value`, JSON text, to `request`.
    pub fn put(&self, key: &str, value: &[u8], request: &mut Vec<u8>) {
        match self.kind {
            Kind::Dynarust => {
                let line = format!("PUT /{}/key/{key}", self.table);
                self.with_body(&line, &[br#"{"value":"#, value, b"}"], request);
            }
            Kind::Etcd => {
                let mut body = Vec::with_capacity(value.len() * 3 / 2);
                body.extend_from_slice(br#"{"key":""#);
                base64(key.as_bytes(), &mut body);
                body.extend_from_slice(br#"","value":""#);
                base64(value, &mut body);
                body.extend_from_slice(br#""}"#);
                self.with_body("POST /v3/kv/put", &[&body], request);
            }
            Kind::EtcdGrpc => calls::message(&[key.as_bytes(), value], request),
        }
    }

    /// Appends a request for `method_and_path` whose body is the concatenation of `body`.
    pub fn with_body(&self, method_and_path: &str, body: &[&[u8]], request: &mut Vec<u8>) {
        self.head(method_and_path, Some(body.iter().map(|part| part.len()).sum()), request);
        for part in body {
            request.extend_from_slice(part);
        }
    }

    /// A request for the events of `key`.
    pub fn subscribe(&self, key: &str) -> Vec<u8> {
        let mut request = Vec::new();
        self.head(&format!("GET /{}/subscribe/{key}", self.table), None, &mut request);
        request
    }

    /// A request for the events of the whole table.
    pub fn subscribe_to_table(&self) -> Vec<u8> {
        let mut request = Vec::new();
        self.head(&format!("GET /{}/subscribe?prefix=", self.table), None, &mut request);
        request
    }

    fn head(&self, method_and_path: &str, content_length: Option<usize>, request: &mut Vec<u8>) {
        let written = match content_length {
            None => write!(request, "{method_and_path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address),
            Some(bytes) => write!(
                request,
                "{method_and_path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
                 Content-Length: {bytes}\r\n\r\n",
                self.address
            ),
        };
        written.expect("a vector takes all that is written to it");
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Dynarust => "dynarust",
            Kind::Etcd => "etcd",
            Kind::EtcdGrpc => "etcd's gRPC",
        };
        write!(f, "{kind} at {}", self.address)
    }
}

/// The name of the key with this number.
pub fn key(number: u64) -> String {
    format!("user-{number:08}")
}

/// Appends `bytes` in base64 (RFC 4648, section 4), which etcd's gateway wants keys and values in.
fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0u32, |group, &byte| group << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { digit } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_the_standard_says() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            let mut out = Vec::new();
            base64(plain.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), encoded);
        }
    }

    fn resolve(address: &str, allow_remote: bool) -> Result<Target> {
        let address = address.to_owned();
        let options = TargetOptions { address, target: Kind::Dynarust, allow_remote, pid: None, data: None };
        Target::resolve(&options, "t")
    }

    #[test]
    fn another_machine_is_refused_unless_allowed() {
        for address in ["192.0.2.1:6660", "[2001:db8::1]:6660"] {
            assert!(matches!(resolve(address, false), Err(Error::Usage(_))));
            assert!(resolve(address, true).is_ok());
        }
        for address in ["127.0.0.1:6660", "[::1]:6660", "http://127.0.0.1:6660/"] {
            assert!(resolve(address, false).is_ok());
        }
        assert!(matches!(resolve("nowhere", false), Err(Error::Usage(_))));
    }

    #[test]
    fn a_write_is_one_request_with_its_length() {
        let target = resolve("127.0.0.1:6660", false).expect("loopback");
        let mut request = Vec::new();
        target.put("k", b"17", &mut request);
        let text = String::from_utf8(request).expect("text");
        assert!(text.starts_with("PUT /t/key/k HTTP/1.1\r\nHost: 127.0.0.1:6660\r\n"), "{text}");
        assert!(text.ends_with("Content-Length: 12\r\n\r\n{\"value\":17}"), "{text}");
    }
}
