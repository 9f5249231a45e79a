//! All settings of a node: their documentation, defaults, limits and validation. The table below has one entry per setting. The entry
//! makes the flag, the environment variable, the key in the configuration file, the text of `--help`, the line of `DynaRust config` and
//! the field of [`Config`], so that they always agree.
//!
//! The layers do not import this module. It builds the `Options` of each layer.

mod check;
pub mod collector;
mod layers;
pub mod memory;
mod options;
mod secrets;
mod spec;
mod strong_backend;
pub mod types;

use std::{path::PathBuf, sync::LazyLock, time::Duration};

use self::collector::CollectorUrl;
pub use self::layers::{COMMAND_VARIABLES, File, Layers, Setting, Source, Texts, unknown_variable};
pub use self::spec::{SettingSpec, use_defaults};
use self::types::{
    Address, AdvertisedAddress, ByteSize, HostPattern, LogFilter, LogFormat, Origin, SecretTexts, Word,
};
use crate::{
    error::{Error, Result},
    http::ClientCertificates,
    node::{Mode, StrongBackend},
    storage::{Durability, backup::recipient::Recipient},
};

/// `name: kind = "default", "least" to "most"`, below the documentation of the setting.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:literal $(, $least:literal to $most:literal)?;)+) => {
        /// All settings, in the order of the table.
        pub static SETTINGS: LazyLock<Vec<SettingSpec>> = LazyLock::new(|| vec![
            $(SettingSpec::new::<$kind>(stringify!($name), &[$($doc),+], $default, &[$(($least, $most))?]),)+
        ]);

        /// The configuration of a node: the value of every setting, parsed and within its limits.
        #[derive(Clone, Debug)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $kind,)+
        }

        impl Config {
            /// Parses settings, which are in the order of [`SETTINGS`].
            fn read(settings: &[Setting]) -> Result<Self> {
                assert_eq!(settings.len(), SETTINGS.len(), "one value for each setting");
                let mut settings = settings.iter();
                Ok(Self {
                    $($name: {
                        let setting = settings.next().expect("counted above");
                        let value = setting.value::<$kind>()?;
                        $(setting.check_limits(&value, ($least, $most))?;)?
                        value
                    },)+
                })
            }
        }
    };
}

settings! {
    /// Address to listen on.
    ///
    /// 127.0.0.1:6660 accepts connections from this machine only, 0.0.0.0:6660 from every network interface; anyone who reaches
    /// the port can read and write. A port alone, 6660 or :6660, means 127.0.0.1. Port 0 picks a free port, and the node prints it.
    listen: Address = "127.0.0.1:6660";

    /// Addresses of nodes to join.
    ///
    /// Any members of the cluster: one is enough, several help when one is down. A node that was a member before finds the
    /// others without it. To join a node on another machine, set CLUSTER_SECRET.
    join: Vec<Address> = "";

    /// Directory of the database.
    ///
    /// Created at the first start. One process at a time may use it. Use a local disk: network file systems break locks and
    /// syncs.
    data: PathBuf = "storage.db";

    /// Address at which other nodes reach this one, as /membership shows it.
    ///
    /// By default the listen address if it names one interface, otherwise the address of the interface that leads outside. Set it
    /// behind NAT or a container's port mapping.
    advertise: Option<AdvertisedAddress> = "";

    /// Address to serve gRPC on.
    ///
    /// 127.0.0.1:50051 is usual; a host and port as for LISTEN, which stays for REST and other nodes. Limits, tokens and certificates are the
    /// same on both. By default there is none.
    grpc: Option<Address> = "";

    /// Address to serve the etcd API on.
    ///
    /// 127.0.0.1:2379 is usual; a host and port as for LISTEN. What clients write is in the strong table etcd. By default there is none.
    etcd: Option<Address> = "";

    /// Secret that all nodes of the cluster share.
    ///
    /// At least 16 characters, without a comma: `openssl rand -hex 16` makes one. To change it without downtime, list several,
    /// separated by commas: the node dials with the first and accepts all. Without one a node links with nodes of its own
    /// machine only. Set it in the environment or a file, never as a flag: other users could see it.
    cluster_secret: SecretTexts = "";

    /// File with the cluster's secrets, one a line.
    ///
    /// Use it instead of CLUSTER_SECRET if your secrets are files.
    cluster_secret_file: Option<PathBuf> = "";

    /// When a write is acknowledged.
    ///
    /// always: once it is on disk; it survives kill -9 and power loss. interval:100ms: at once, and on disk within 100 ms; a
    /// crash loses the last interval. none: at once, and on disk whenever the engine and the system write it, for data that
    /// you can recreate.
    durability: Durability = "always";

    /// Bytes of the database to read each second in search of damage; 0 for none.
    ///
    /// Finds damaged pages that no request reads, while other nodes still hold the data. The default reads a gigabyte in about an
    /// hour, at almost no cost in CPU or disk.
    scrub_rate: ByteSize = "256KiB", "0B" to "1GiB";

    /// Memory that the process may use, in bytes.
    ///
    /// By default the smallest limit of its control groups, as Docker and Kubernetes set them, otherwise the machine's memory. Caches,
    /// buffers and bodies get their shares of it. Near the limit the node refuses writes with 503 and Retry-After; reads go on.
    memory_budget: Option<ByteSize> = "", "64MiB" to "1024TiB";

    /// Memory for pages of the database, in bytes.
    ///
    /// A larger cache serves more reads without the disk. The default is a sixteenth of memory-budget, from 8 MiB to 24 MiB. The process
    /// needs up to twice this much on top of 50 MiB, plus what its connections take.
    cache: Option<ByteSize> = "", "8MiB" to "1TiB";

    /// Largest value to accept, in bytes of JSON as sent.
    ///
    /// A write holds its value in memory a few times. Store anything beyond a few MiB as a file, and its name here.
    max_value: ByteSize = "1MiB", "1KiB" to "64MiB";

    /// Largest body of a batch or a multi-get, in bytes after decoding.
    ///
    /// At least max-value, and less where memory-budget is small: at most half of body-memory. A batch takes up to four times its
    /// length in memory until it is committed.
    max_body: ByteSize = "64MiB", "64KiB" to "1GiB";

    /// Most operations in a batch, and most keys in a multi-get.
    ///
    /// More get 413. An atomic batch locks its keys until it is done. An import takes any number of rows.
    max_batch_ops: usize = "10000", "1" to "1000000";

    /// Memory for all request bodies and answers together, in bytes.
    ///
    /// Requests beyond it get 503 with Retry-After. The default is a sixteenth of memory-budget up to 1 GiB, or four times max-body, but
    /// then at most a quarter of memory-budget. The process needs up to this much beside its cache and its connections.
    body_memory: Option<ByteSize> = "";

    /// Most connections at a time.
    ///
    /// One more gets 503 and is closed. An idle stream takes 3 to 20 KB of memory and one file descriptor: see ulimit -n.
    max_connections: usize = "16384", "1" to "1000000";

    /// Most connections from one address at a time, and most of its requests in flight.
    ///
    /// One more gets 429. The default is a quarter of max-connections, so that no address shuts out the others; an IPv6 network of
    /// 64 bits counts as one address. Behind a proxy every client has the proxy's address: set it to max-connections there. Addresses
    /// of this machine have no limit of their own unless you set it.
    max_connections_per_address: Option<usize> = "";

    /// Most requests a second of one token.
    ///
    /// More get 429 with Retry-After. A message on a WebSocket counts as a request, a batch as one. None by default: which rate suits
    /// depends on the clients. Tokens keep clients apart behind a proxy too.
    rate_limit_per_token: Option<usize> = "", "1" to "1000000";

    /// Most requests a second of one address, whatever its tokens.
    ///
    /// It also slows down whoever guesses tokens. None by default. An IPv6 network of 64 bits counts as one address, and so do all clients
    /// behind one proxy. /healthz, /readyz and other nodes have no limit.
    rate_limit_per_address: Option<usize> = "", "1" to "1000000";

    /// Requests that a client may send at once after a pause, before these limits hold it to the rate.
    ///
    /// By default as many as in one second.
    rate_limit_burst: Option<usize> = "", "1" to "1000000";

    /// Most subscriptions at a time, over all connections.
    ///
    /// One more gets 429. Each has its own bounded queue, which stays empty while its reader keeps up.
    max_subscriptions: usize = "65536", "1" to "10000000";

    /// Most tables; a write that would create one more gets 429.
    ///
    /// A table costs a thread and some memory. A prefix of the key is often the better table.
    max_tables: usize = "1000", "1" to "10000";

    /// How long a client may take to send the head of a request.
    ///
    /// Counted from its first byte; for the first request of a connection, from the moment it connects. Shorter frees idle
    /// connections sooner; longer suits slow networks.
    header_timeout: Duration = "10s", "100ms" to "10m";

    /// How long a connection may stay open without a request.
    ///
    /// Clients see it in Keep-Alive. Set it above the idle timeout of a load balancer or proxy in front of the node (60 s is usual);
    /// otherwise that sends requests into connections that are closing. HTTP/2 connections stay open.
    idle_timeout: Duration = "75s", "1s" to "1h";

    /// How long a request's body may pause.
    ///
    /// Shorter frees stalled connections sooner; longer suits slow networks.
    body_timeout: Duration = "30s", "100ms" to "1h";

    /// Lowest rate of a request's body, in bytes a second.
    ///
    /// An average that counts after 10 s of waiting; a slower body gets 408. Lower it for slow links; 0 sets no minimum.
    min_body_rate: ByteSize = "1KiB", "0B" to "1GiB";

    /// How long a client may leave data unread.
    ///
    /// The node then closes the connection, or gives up an answer over HTTP/2, so that a reader that hangs does not hold memory forever.
    stall_timeout: Duration = "20s", "1s" to "1h";

    /// How long requests in flight may take to finish when the node stops.
    ///
    /// Keep it below the time after which the process is killed: 10 s for docker stop, 30 s for Kubernetes.
    shutdown_timeout: Duration = "10s", "0s" to "10m";

    /// Origins whose pages may call this node from a browser.
    ///
    /// A scheme and a host without a path, such as `https://app.example.com`; or * for any. None by default.
    cors_origin: Vec<Origin> = "";

    /// Host names to accept requests for, in addition to the names that the node knows.
    ///
    /// It knows addresses, localhost, its advertised name and the names in tls-cert. A request for any other name gets 421, because a
    /// page of another site could have sent it. List the names that a proxy, Kubernetes or Docker uses for the node, without a port;
    /// *.example.com stands for all names with one label before example.com.
    allowed_host: Vec<HostPattern> = "";

    /// Certificate chain for HTTPS, a PEM file.
    ///
    /// Needs tls-key. The port then accepts HTTPS only.
    tls_cert: Option<PathBuf> = "";

    /// Private key of tls-cert, a PEM file.
    ///
    /// The node reads both again when they change and on SIGHUP; files that it cannot use change nothing.
    tls_key: Option<PathBuf> = "";

    /// Certificates of the authorities that sign those of clients, a PEM file.
    ///
    /// Needs tls-cert. Then only clients with a certificate that one of these has signed can connect. The name in it is in the audit log;
    /// what the client may do, its token says. Other nodes need none.
    tls_client_ca: Option<PathBuf> = "";

    /// Whether clients must have a certificate: required, or optional.
    ///
    /// required by default, where tls-client-ca is set. With optional a client without one connects as well; one with a wrong one does not.
    tls_client_auth: Option<ClientCertificates> = "";

    /// File of the tokens that clients must send, and what each may do.
    ///
    /// `DynaRust token new` makes it. The node reads it again when it changes and on SIGHUP; one that it cannot read changes nothing.
    /// Without it, and without jwks, there is no access control: everyone who reaches the port can read and write.
    tokens: Option<PathBuf> = "";

    /// File with the public keys (a JSON Web Key Set) whose JWTs clients may send as tokens.
    ///
    /// Read again as tokens is. A JWT says in its claim dynarust what it grants, and must have an expiry.
    jwks: Option<PathBuf> = "";

    /// Issuer that a JWT must name in iss.
    ///
    /// Without it any issuer will do whose JWT a key of jwks has signed.
    jwt_issuer: Option<Word> = "";

    /// Audience that a JWT must name in aud.
    ///
    /// Set it where the keys also sign tokens for other services. Without it a JWT with any aud is refused.
    jwt_audience: Option<Word> = "";

    /// Run without access control where other machines reach the node, and say nothing about it.
    ///
    /// Only silences the warning. For a node that a firewall or a proxy guards.
    no_auth: bool = "false";

    /// How far a timestamp from elsewhere may be ahead of this node's clock.
    ///
    /// The node refuses imports with a later timestamp, and links with nodes whose clock is off by more. NTP keeps clocks
    /// within 50 ms.
    max_clock_drift: Duration = "500ms", "10ms" to "1h";

    /// How long the tombstone of a deleted key is kept at least.
    ///
    /// The node removes it after that, once every member has the deletion. Longer costs the space of deleted keys; shorter leaves
    /// less time to recognise an old backup as old when it is imported.
    tombstone_grace: Duration = "1h", "1s" to "30d";

    /// How long a member may be down before the others forget it.
    ///
    /// Until then the others keep all tombstones that it may have missed. Only a majority of the members forgets. A forgotten member that
    /// returns takes the cluster's data. Set it above the longest outage that you expect. `DynaRust forget` forgets a member at once.
    forget_after: Duration = "72h", "1m" to "365d";

    /// Who agrees on the order of writes to strong tables: raft, or an etcd.
    ///
    /// raft: the cluster's nodes among themselves. `etcd://HOST:PORT`, with more addresses after commas: an etcd that you run; it needs a
    /// build with the feature etcd. All nodes of a cluster have the same, and it stays as it was when the first strong table was made.
    strong_backend: StrongBackend = "raft";

    /// Mode of a table that a write makes: eventual, or strong.
    ///
    /// A table keeps its mode. The same on all nodes, or it depends on which of them takes the first write.
    new_tables: Mode = "eventual";

    /// Time between two rounds in which members compare their data.
    ///
    /// Writes do not wait for it. A round is also a sign of life: a member that sends none for two seconds is suspect. Shorter
    /// finds differences sooner and costs traffic.
    sync_interval: Duration = "1s", "100ms" to "1s";

    /// Move a damaged database aside and start with an empty one.
    ///
    /// Otherwise a node that finds damage does not start. It deletes nothing: it renames the directory to
    /// `storage.db.damaged-TIME`.
    set_aside_damaged: bool = "false";

    /// Directory in which the node makes backups of itself.
    ///
    /// Each is a directory named by its time, and shares files with the one before. Another disk or machine than the database's is best. By
    /// default there are none; `DynaRust backup` makes one at any time.
    backup_dir: Option<PathBuf> = "";

    /// Time from one backup to the next.
    backup_every: Duration = "1h", "1s" to "365d";

    /// How many backups to keep.
    ///
    /// An older one is removed after a newer one was read and found sound.
    backup_keep: usize = "24", "1" to "10000";

    /// File with the key that encrypts these backups.
    ///
    /// At least 32 random bytes: `openssl rand -hex 32` makes some. Keep a copy elsewhere, as without it nobody can read them.
    backup_key_file: Option<PathBuf> = "";

    /// Recipient that these backups are encrypted for.
    ///
    /// A public key, as `DynaRust backup-key new FILE` prints it. Only the private key in that file opens them, which the node does not need:
    /// keep it elsewhere.
    backup_recipient: Option<Recipient> = "";

    /// OpenTelemetry collector to send a span of each request to.
    ///
    /// OTLP over HTTP, as JSON: `http://127.0.0.1:4318`; /v1/traces is added. A request that brings a traceparent joins that trace. It needs a
    /// build with the feature otlp.
    otlp_endpoint: Option<CollectorUrl> = "";

    /// Which log lines to write to stderr.
    ///
    /// error, warn, info, debug, trace or off, also for a single module: warn,dynarust::http=debug. The storage engine logs several
    /// lines for every write; it stays at info unless you name it.
    log: LogFilter = "info";

    /// Format of the log lines.
    ///
    /// text is for people; json writes one object a line, for programs.
    log_format: LogFormat = "text";
}

impl Config {
    /// What memory the process may use.
    pub fn memory(&self) -> memory::Limit {
        memory::Limit::new(self.memory_budget.map(|limit| limit.0))
    }

    /// What each part of the node gets of so much memory, the settings included.
    ///
    /// # Errors
    /// `Config` where it is too little for the largest value.
    pub fn shares(&self, limit: &memory::Limit) -> Result<memory::Shares> {
        let mut shares = memory::Shares::of(limit.bytes, self.max_body.0);
        shares.cache = self.cache.map_or(shares.cache, |cache| cache.0);
        if let Some(ByteSize(budget)) = self.body_memory {
            (shares.bodies, shares.body_max) = (budget, self.max_body.0);
        }
        if shares.body_max < self.max_value.0 {
            return Err(Error::Config(format!(
                "max-value ({} bytes) is too large for a memory of {} bytes ({}): lower it, or give the node at least {} bytes",
                self.max_value.0,
                limit.bytes,
                limit.source,
                memory::needed_for_body(self.max_value.0)
            )));
        }
        Ok(shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::memory_pressure::MemoryPressure, replication::link::secret::Secrets};

    fn texts(pairs: &[(&'static str, &str)]) -> Texts {
        pairs.iter().map(|&(name, text)| (name, text.to_owned())).collect()
    }

    fn config(flags: &[(&'static str, &str)]) -> Result<Config> {
        Config::new(&Layers { flags: texts(flags), ..Layers::default() }.settings())
    }

    fn setting(layers: &Layers, name: &str) -> (String, String) {
        let settings = layers.settings();
        let setting = settings.iter().find(|setting| setting.spec.name == name).expect(name);
        (setting.text.clone(), setting.origin())
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn the_etcd_api_needs_strong_tables_of_its_own() {
        let flags = [("etcd", "2379"), ("strong-backend", "etcd://127.0.0.1:2380")];
        let error = config(&flags).expect_err("refused").to_string();
        assert!(error.contains("etcd needs strong-backend raft"), "{error}");
    }

    #[test]
    fn defaults_are_valid_and_are_what_the_contract_says() {
        let config = config(&[]).expect("defaults");
        assert_eq!(config.listen.as_str(), "127.0.0.1:6660");
        assert_eq!(config.data, PathBuf::from("storage.db"));
        assert_eq!(config.durability, Durability::Always);
        let limit = memory::Limit { bytes: 4 << 30, source: memory::Source::Machine };
        let shares = config.shares(&limit).expect("enough");
        let listen = ([127, 0, 0, 1], 6660).into();
        let node = config.node_options(
            "127.0.0.1:6660".into(),
            listen,
            Secrets::Open,
            &shares,
            &MemoryPressure::default(),
        );
        assert_eq!(node.storage.cache_bytes, 24 << 20);
        assert_eq!(
            (node.clock_drift_max_ms, node.value_bytes_max, node.storage.tables_max),
            (500, 1 << 20, 1000)
        );
        let replication = node.replication;
        assert_eq!(
            (replication.tombstone_grace_ms, replication.forget_after_ms, replication.round_ms),
            (3_600_000, 72 * 3_600_000, 1000)
        );
        assert!(replication.join.is_empty() && replication.secrets.is_open());
        let http = config.http_options(&limit, &MemoryPressure::default()).expect("defaults");
        assert_eq!((http.connections_max, http.body_bytes_max), (16384, 64 << 20));
        assert!(http.tls.is_none() && http.cors_origins.is_empty());
    }

    #[test]
    fn settings_go_before_shares_and_what_cannot_hold_a_value_is_refused() {
        let shares = |flags: &[(&'static str, &str)], bytes: u64| {
            config(flags)?.shares(&memory::Limit { bytes, source: memory::Source::Setting })
        };
        let set = shares(&[("cache", "1GiB"), ("body-memory", "256MiB")], 128 << 20).expect("as set");
        assert_eq!((set.cache, set.bodies, set.body_max), (1 << 30, 256 << 20, 64 << 20));
        let refused = shares(&[("max-value", "32MiB")], 128 << 20).expect_err("too little").to_string();
        for words in
            ["max-value (33554432 bytes)", "134217728 bytes (--memory-budget)", "at least 268435456 bytes"]
        {
            assert!(refused.contains(words), "{refused}");
        }
        assert!(shares(&[("max-value", "32MiB")], 256 << 20).is_ok());
    }

    #[test]
    fn every_setting_is_documented_and_named_once() {
        let mut names: Vec<_> = SETTINGS.iter().flat_map(|spec| [&spec.name, &spec.variable]).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "two settings share a name");
        for spec in SETTINGS.iter() {
            assert!(
                spec.summary.ends_with('.') && spec.summary.len() < 100,
                "{}: {}",
                spec.name,
                spec.summary
            );
        }
    }

    #[test]
    fn a_flag_overrides_the_environment_then_the_file_then_the_default() {
        let file =
            "cache = \"1GiB\"\nmax-tables = 7\ndata = \"/file\"\ncors-origin = [\"http://a\", \"http://b\"]";
        let path = PathBuf::from("node.toml");
        let layers = Layers {
            flags: texts(&[("data", "/flag")]),
            environment: texts(&[("data", "/environment"), ("cache", "2GiB")]),
            file: Some(File::parse(path, file).expect("valid")),
        };
        let found = |name| setting(&layers, name);
        assert_eq!(found("data"), ("/flag".into(), "flag --data".into()));
        assert_eq!(found("cache"), ("2GiB".into(), "DYNARUST_CACHE in the environment".into()));
        assert_eq!(found("max-tables"), ("7".into(), "`max-tables` in node.toml".into()));
        assert_eq!(found("cors-origin").0, "http://a,http://b");
        assert_eq!(found("max-value"), ("1MiB".into(), "default".into()));
        let config = Config::new(&layers.settings()).expect("valid");
        assert_eq!(
            (config.cache, config.max_tables, config.cors_origin.len()),
            (Some(ByteSize(2 << 30)), 7, 2)
        );
    }

    #[test]
    fn variables_are_read_by_name_and_empty_ones_are_ignored() {
        let variable = |name: &str| match name {
            "DYNARUST_MAX_CLOCK_DRIFT" => Some("1s".to_owned()),
            "RUST_LOG" => Some("debug".to_owned()),
            "DYNARUST_DATA" | "DYNARUST_CONFIG" => Some(String::new()),
            _ => None,
        };
        let layers = Layers::read(Texts::new(), None, variable).expect("valid");
        assert_eq!(setting(&layers, "max-clock-drift").0, "1s");
        assert_eq!(setting(&layers, "log"), ("debug".into(), "RUST_LOG in the environment".into()));
        assert_eq!(setting(&layers, "data"), ("storage.db".into(), "default".into()));
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let error = Layers::read(Texts::new(), Some("/no/such.toml".as_ref()), |_| None).expect_err("absent");
        assert!(error.to_string().contains("/no/such.toml"), "{error}");
    }

    #[test]
    fn a_file_with_an_unknown_key_or_a_wrong_type_is_refused() {
        for (text, words) in [
            (
                "chache = 1",
                &["node.toml", "unknown key \"chache\"", "did you mean \"cache\"?", "cache, max-value"][..],
            ),
            ("max_tables = 1", &["unknown key \"max_tables\"", "did you mean \"max-tables\"?"]),
            ("cache = [\"1MiB\"]", &["node.toml", "`cache` takes one value", "array"]),
            ("cors-origin = [1]", &["`cors-origin` takes a string or an array of strings"]),
            ("cache = 1.5", &["`cache` takes one value", "float"]),
            ("[cache]\nsize = 1", &["`cache` takes one value", "table"]),
            ("cache = ", &["node.toml", "line 1"]),
        ] {
            let error = File::parse("node.toml".into(), text).expect_err(text).to_string();
            for word in words {
                assert!(error.contains(word), "{text}: {error}");
            }
        }
    }

    #[test]
    fn an_error_names_where_a_bad_value_was_set_and_what_is_allowed() {
        for (flags, words) in [
            ([("cache", "64QB")].as_slice(), ["--cache", "64QB", "64MiB"]),
            (&[("cache", "1B")], ["--cache", "1B", "from 8MiB to 1TiB"]),
            (&[("tombstone-grace", "31d")], ["--tombstone-grace", "31d", "from 1s to 30d"]),
            (&[("forget-after", "1s")], ["--forget-after", "1s", "from 1m to 365d"]),
            (&[("sync-interval", "1ms")], ["--sync-interval", "1ms", "from 100ms to 1s"]),
            (&[("max-tables", "0")], ["--max-tables", "0", "from 1 to 10000"]),
            (&[("listen", "localhost")], ["LISTEN", "localhost", "127.0.0.1:6660"]),
            (&[("advertise", ":6660")], ["--advertise", ":6660", "db1.example.com:6660"]),
            (&[("join", "a:1,b")], ["JOIN", "a:1,b", "HOST:PORT"]),
            (&[("stall-timeout", "5")], ["--stall-timeout", "5", "500ms"]),
            (&[("tls-cert", "a.pem")], ["tls-cert", "tls-key", "missing"]),
            (&[("grpc", "127.0.0.1:6660")], ["--grpc 127.0.0.1:6660", "LISTEN is the same", "another port"]),
            (&[("listen", "0.0.0.0:7000"), ("grpc", "7000")], ["--grpc", "LISTEN", "another port"]),
            (&[("max-value", "2MiB"), ("max-body", "1MiB")], ["max-body", "max-value", "fit"]),
        ] {
            let error = config(flags).expect_err("refused").to_string();
            for word in words {
                assert!(error.contains(word), "{flags:?}: {error}");
            }
        }
    }

    const SECRET: &str = "a secret that nobody knows";

    #[test]
    fn a_secret_is_read_from_the_environment_or_a_file_but_not_from_a_flag() {
        let layers = |variables: &'static [(&str, &str)]| {
            let variable = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
            };
            Layers::read(Texts::new(), None, variable).expect("valid")
        };
        let set = layers(&[("CLUSTER_SECRET", "a secret that nobody knows, another that nobody knows")]);
        let secrets = Config::new(&set.settings()).and_then(|config| config.secrets()).expect("valid");
        assert_eq!(secrets.link_keys().len(), 2);
        assert!(config(&[]).and_then(|config| config.secrets()).expect("none is valid").is_open());
        let flag = config(&[("cluster-secret", SECRET)]).expect_err("a flag").to_string();
        assert!(flag.contains("set CLUSTER_SECRET in the environment"), "{flag}");
        assert!(!flag.contains(SECRET), "{flag}");
        let file = config(&[("cluster-secret-file", "/no/such/file")]).and_then(|config| config.secrets());
        let error = file.expect_err("absent").to_string();
        assert!(error.contains("CLUSTER_SECRET_FILE /no/such/file"), "{error}");
    }

    #[test]
    fn joining_another_machine_needs_a_secret_and_joining_this_one_does_not() {
        let joining = |address: &str, secret: &str| {
            let flags = texts(&[("join", address)]);
            let environment = texts(&[("cluster-secret", secret)]);
            Config::new(&Layers { flags, environment, ..Layers::default() }.settings())?.link_secrets()
        };
        for here in ["", "127.0.0.1:6660", "127.9.9.9:1", "localhost:6660", "LocalHost:1", "[::1]:6660"] {
            assert!(joining(here, "").expect(here).is_open(), "{here}");
        }
        for elsewhere in
            ["192.0.2.1:6660", "node1:6660", "localhost.example:1", "0.0.0.0:1", "[2001:db8::1]:6660"]
        {
            let both = format!("127.0.0.1:6660,{elsewhere}");
            let Err(Error::Config(why)) = joining(&both, "") else { panic!("{elsewhere}: it starts") };
            assert!(why.contains(&format!("JOIN {elsewhere}")), "{why}");
            for remedy in ["set CLUSTER_SECRET", "the same on all nodes", "at least 16 characters"] {
                assert!(why.contains(remedy), "{why}");
            }
            assert!(!joining(&both, SECRET).expect(elsewhere).is_open());
        }
    }

    #[test]
    fn no_secret_is_ever_shown() {
        let shown = |text: &str| {
            let layers = Layers { environment: texts(&[("cluster-secret", text)]), ..Layers::default() };
            let settings = layers.settings();
            let config = Config::new(&settings);
            let error = config.as_ref().err().map(Error::to_string).unwrap_or_default();
            format!("{layers:?} {settings:?} {config:?} {error}")
        };
        assert!(!shown(SECRET).contains(SECRET));
        let refused = shown("hunter2");
        assert!(!refused.contains("hunter2"), "{refused}");
        assert!(refused.contains("CLUSTER_SECRET in the environment"), "{refused}");
        assert!(refused.contains("at least 16 characters"), "{refused}");
        assert!(shown(" , ,").contains("commas"));
    }

    #[test]
    fn a_secret_file_has_one_secret_a_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secrets");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("written");
            config(&[("cluster-secret-file", path.to_str().expect("text"))])?.secrets()
        };
        assert_eq!(
            read("one secret, with a comma\r\n\nanother of them all\n").expect("two").link_keys().len(),
            2
        );
        for (text, words) in [("\n \n", "there is no secret"), ("hunter2\n", "at least 16 characters")] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(words) && error.contains("CLUSTER_SECRET_FILE"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        std::fs::write(&path, SECRET).expect("written");
        let both = Layers {
            environment: texts(&[
                ("cluster-secret", SECRET),
                ("cluster-secret-file", path.to_str().expect("text")),
            ]),
            ..Layers::default()
        };
        let error = Config::new(&both.settings()).and_then(|config| config.secrets()).expect_err("both");
        assert!(error.to_string().contains("set one of them"), "{error}");
    }

    /// A misspelt variable was ignored, and the node ran with the default.
    #[test]
    fn unknown_variables_are_reported_and_those_of_kubernetes_are_not() {
        for (name, meant) in [
            ("DYNARUST_CAHCE", "DYNARUST_CACHE"),
            ("DYNARUST_TOMBSTONES_GRACE", "DYNARUST_TOMBSTONE_GRACE"),
            ("DYNARUST_MAX_TABLE", "DYNARUST_MAX_TABLES"),
            ("dynarust_data", "DYNARUST_DATA"),
            ("DYNARUST_CLUSTER_SECRET", "CLUSTER_SECRET"),
            ("DYNARUST_COLOUR_OF_THE_SKY", "DynaRust config"),
        ] {
            let said = unknown_variable(name).expect(name);
            assert!(said.contains(meant), "{name}: {said}");
        }
        for name in [
            "DYNARUST_CACHE",
            "DYNARUST_CONFIG",
            "CLUSTER_SECRET",
            "HOME",
            "DYNARUST_SERVICE_HOST",
            "DYNARUST_SERVICE_PORT",
            "DYNARUST_SERVICE_PORT_HTTP",
            "DYNARUST_PORT",
            "DYNARUST_PORT_6660_TCP",
            "DYNARUST_PORT_6660_TCP_ADDR",
            "DYNARUST_METRICS_SERVICE_HOST",
            "DYNARUST_METRICS_PORT_9000_TCP_PORT",
        ] {
            assert_eq!(unknown_variable(name), None, "{name}");
        }
    }
}
