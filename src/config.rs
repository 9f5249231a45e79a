//! Every knob of a node: documented, defaulted, limited and validated here, once. From one entry of the table below come
//! the flag, the environment variable, the key in the configuration file, the text of `--help`, the line of
//! `DynaRust config` and the field of [`Config`]; so they cannot differ.
//!
//! Layers know nothing of this module: it composes the `Options` of each.

pub mod kinds;
mod knob;
mod layers;
mod memory;
mod options;

use std::{path::PathBuf, sync::LazyLock, time::Duration};

use self::kinds::{Address, ByteSize, HostPattern, LogFilter, LogFormat, Origin, SecretTexts};
pub use self::knob::Knob;
pub use self::layers::{File, Layers, Setting, Source, Texts, unknown_variable};
use crate::{
    error::{Error, Result},
    replication::link::secret::{REMEDY, Secrets},
    storage::Durability,
};

/// `name: kind = "default", "least" to "most"`, under the knob's documentation.
macro_rules! knobs {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:literal $(, $least:literal to $most:literal)?;)+) => {
        /// Every knob there is.
        pub static KNOBS: LazyLock<Vec<Knob>> = LazyLock::new(|| vec![
            $(Knob::new::<$kind>(stringify!($name), &[$($doc),+], $default, &[$(($least, $most))?]),)+
        ]);

        /// How a node runs: every knob, read and within its limits.
        #[derive(Clone, Debug)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $kind,)+
        }

        impl Config {
            /// Reads settings that are in the order of [`KNOBS`].
            fn read(settings: &[Setting]) -> Result<Self> {
                assert_eq!(settings.len(), KNOBS.len(), "one setting for each knob");
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

knobs! {
    /// Address to serve at.
    ///
    /// 127.0.0.1:6660 is for this machine only, 0.0.0.0:6660 for every interface; anyone who reaches the port can read and
    /// write. Port 0 takes a free port, and the node prints which.
    listen: Option<Address> = "";

    /// Addresses of nodes to link with.
    ///
    /// Any members of a cluster, or of one to be: one is enough, several help where one is away. A node that was a member
    /// before finds the others without. Where one is on another machine, CLUSTER_SECRET must be set.
    join: Vec<Address> = "";

    /// Directory of the database.
    ///
    /// Made at the first start. One process at a time; on a local disk, as network file systems break locks and syncs.
    data: PathBuf = "storage.db";

    /// Address that others reach this node at, as /membership shows it.
    ///
    /// The listen address if that names one interface, else the address of the interface that leads outside. Set it behind
    /// a NAT or a container's port mapping.
    advertise: Option<Address> = "";

    /// What proves that nodes belong together: the same on all of them.
    ///
    /// At least 16 characters, without a comma: `openssl rand -hex 16` makes one. To change it without an outage, give several,
    /// separated by commas: the first is used to dial, all are accepted. Without one a node links with nodes of its own
    /// machine only. Set in the environment or a file, never as a flag, which others could see.
    cluster_secret: SecretTexts = "";

    /// File with the cluster's secrets, one a line.
    ///
    /// Instead of CLUSTER_SECRET, for systems that hand out secrets as files.
    cluster_secret_file: Option<PathBuf> = "";

    /// When a write is acknowledged.
    ///
    /// always: once it is on the disk; it survives kill -9 and power loss. interval:100ms: at once, and on the disk within
    /// 100 ms; a crash takes the last interval. none: at once, and on the disk when the engine and the system get to it, for
    /// data that can be made again.
    durability: Durability = "always";

    /// Bytes of the database that are read each second to look for damage; 0 for none.
    ///
    /// Finds what the disk has lost in pages that nobody reads, while other nodes still have it. At the default a gigabyte takes
    /// about an hour, and next to no time of the processor or the disk.
    scrub_rate: ByteSize = "256KiB", "0B" to "1GiB";

    /// Memory for pages of the database, in bytes.
    ///
    /// Larger serves more reads without the disk. The process needs about this much on top of 50 MiB, and what its
    /// connections take.
    cache: ByteSize = "64MiB", "8MiB" to "1TiB";

    /// Largest value that is taken, in bytes of JSON as sent.
    ///
    /// A value is held in memory a few times over while it is written. Values beyond a few MiB are files: store their names.
    max_value: ByteSize = "1MiB", "1KiB" to "64MiB";

    /// Largest body of a batch or a multi-get, in bytes, decoded.
    ///
    /// At least max-value. A batch is held in memory while it is committed, with what is made of it up to four times its length.
    max_body: ByteSize = "64MiB", "64KiB" to "1GiB";

    /// Most operations of a batch, and keys of a multi-get.
    ///
    /// More get 413. An atomic batch keeps others from writing its keys until it is done. An import takes any number of rows.
    max_batch_ops: usize = "10000", "1" to "1000000";

    /// Memory for all bodies and answers at one time, in bytes.
    ///
    /// What does not fit gets 503 with Retry-After. A sixteenth of the machine's memory by default, up to 1 GiB,
    /// and at least four times max-body. The process needs up to this much beside its cache and its connections.
    memory_budget: Option<ByteSize> = "";

    /// Most connections at one time.
    ///
    /// One more is answered 503 and closed. An idle stream takes 10 to 20 KB of memory and one file descriptor: see ulimit -n.
    max_connections: usize = "16384", "1" to "1000000";

    /// Most connections of one address at one time, and most of its requests in flight.
    ///
    /// One more gets 429. A quarter of max-connections by default, so that no address shuts out all others; of IPv6 a network of
    /// 64 bits is one address. Behind a proxy all clients have one address, the proxy's: set it to max-connections there. Addresses
    /// of this machine have no share of their own unless it is set.
    max_connections_per_address: Option<usize> = "";

    /// Most subscriptions at one time, over all connections.
    ///
    /// One more gets 429. Each has a bounded queue of its own, empty while its reader keeps up.
    max_subscriptions: usize = "65536", "1" to "10000000";

    /// Most tables; a write that would make one more gets 429.
    ///
    /// A table costs a thread and some memory. A prefix of the key is often the better table.
    max_tables: usize = "1000", "1" to "10000";

    /// How long a client may take to send a request's head.
    ///
    /// From its first byte on; for the first request of a connection, also until that byte. Shorter frees connections that send nothing sooner; longer suits slow networks.
    header_timeout: Duration = "10s", "100ms" to "10m";

    /// How long a connection may stay open without a request.
    ///
    /// Said to clients in Keep-Alive. Longer than what a balancer or proxy before the node keeps its own (60 s is usual), as it would
    /// send a request into a connection that closes. Over HTTP/2 connections stay.
    idle_timeout: Duration = "75s", "1s" to "1h";

    /// How long a request's body may pause.
    ///
    /// Shorter frees connections that send nothing sooner; longer suits slow networks.
    body_timeout: Duration = "30s", "100ms" to "1h";

    /// Least rate of a request's body, in bytes a second.
    ///
    /// On the average, once 10 s were spent waiting for it. What comes more slowly gets 408. Less suits slow links; 0 lets a body take for ever, a byte at a time.
    min_body_rate: ByteSize = "1KiB", "0B" to "1GiB";

    /// How long a client may leave what it was sent unread.
    ///
    /// Its connection is then closed, so that a reader that hangs holds no memory for ever.
    stall_timeout: Duration = "20s", "1s" to "1h";

    /// How long requests in flight may take to finish once the node was told to stop.
    ///
    /// Stay below the patience of whoever stops it: docker stop kills after 10 s, Kubernetes after 30 s.
    shutdown_timeout: Duration = "10s", "0s" to "10m";

    /// Origins whose pages may call this node from a browser.
    ///
    /// A scheme and a host without a path, such as `https://app.example.com`; or * for any. None by default.
    cors_origin: Vec<Origin> = "";

    /// Names of this node that clients may use beside those it knows.
    ///
    /// Addresses, localhost, the advertised name and those of tls-cert are known. A request for any other name gets 421, as a
    /// page of another site could have made it. Name here what a proxy, Kubernetes or Docker calls the node, without a port;
    /// *.example.com stands for all names with one label before example.com.
    allowed_host: Vec<HostPattern> = "";

    /// Certificate chain to serve HTTPS with, a PEM file.
    ///
    /// Needs tls-key. The port then takes HTTPS only.
    tls_cert: Option<PathBuf> = "";

    /// Private key of tls-cert, a PEM file.
    tls_key: Option<PathBuf> = "";

    /// How far ahead of this node's clock a foreign timestamp may be.
    ///
    /// An import with a later one is refused, and so is the link with a node whose clock is that far off. Clocks kept by NTP
    /// are within 50 ms.
    max_clock_drift: Duration = "500ms", "10ms" to "1h";

    /// How long the mark of a deleted key is kept at least.
    ///
    /// It is removed after that, once every member has the deletion. Longer costs the space of deleted keys; shorter gives an
    /// old backup that is imported less time to be recognised as old.
    tombstone_grace: Duration = "1h", "1s" to "30d";

    /// How long a member may be down before the others forget it.
    ///
    /// Until then no tombstone is removed that it may have missed. Only a majority of the members forgets. One that returns later takes what was
    /// written and deleted meanwhile. Above the longest outage that is worth a wait. `DynaRust forget` does it at once.
    forget_after: Duration = "72h", "1m" to "365d";

    /// Time between two rounds, in which members compare what they hold.
    ///
    /// Writes do not wait for it. A round is also a sign of life: a member that gives none for two seconds is suspect. Shorter
    /// notices differences sooner, and costs traffic.
    sync_interval: Duration = "1s", "100ms" to "1s";

    /// Move a damaged database aside, and start with an empty one.
    ///
    /// Without it a node that finds damage does not start. Nothing is deleted: the directory is renamed to
    /// `storage.db.damaged-TIME`.
    set_aside_damaged: bool = "false";

    /// Log lines to write, to stderr.
    ///
    /// error, warn, info, debug, trace or off, also by module: warn,dynarust::http=debug. The storage engine, which has a
    /// few lines on every write, stays at info unless it is named.
    log: LogFilter = "info";

    /// How log lines look.
    ///
    /// text is for people; json, an object a line, for machines.
    log_format: LogFormat = "text";
}

impl Config {
    /// Validates settings, alone and against each other.
    ///
    /// # Errors
    /// `Config`: who gave what, and what is allowed.
    pub fn new(settings: &[Setting]) -> Result<Self> {
        let config = Self::read(settings)?;
        if config.tls_cert.is_some() != config.tls_key.is_some() {
            return Err(Error::Config("tls-cert and tls-key go together: one is missing".into()));
        }
        if config.max_body < config.max_value {
            return Err(Error::Config(format!(
                "max-body ({} bytes) is below max-value ({} bytes): a value must fit into a body",
                config.max_body.0, config.max_value.0
            )));
        }
        config.check_memory_budget()?;
        if config.max_connections_per_address == Some(0) {
            return Err(Error::Config("max-connections-per-address is 0: nobody could connect".into()));
        }
        Ok(config)
    }

    fn check_memory_budget(&self) -> Result<()> {
        let least = memory::BODIES * self.max_body.0;
        match self.memory_budget {
            Some(ByteSize(budget)) if budget < least => Err(Error::Config(format!(
                "memory-budget ({budget} bytes) is below four times max-body ({} bytes): a batch so long could never be taken",
                self.max_body.0
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// The cluster's secrets.
    ///
    /// # Errors
    /// `Config` for a file that cannot be read, has none, or has one that is too short; and where both ways are used.
    pub fn secrets(&self) -> Result<Secrets> {
        let Some(path) = &self.cluster_secret_file else {
            return Secrets::new(self.cluster_secret.0.iter().map(String::as_str));
        };
        let wrong = |why: &dyn std::fmt::Display| {
            Error::Config(format!("CLUSTER_SECRET_FILE {}: {why}", path.display()))
        };
        if !self.cluster_secret.0.is_empty() {
            return Err(wrong(
                &"CLUSTER_SECRET is set too, and which one counts is not clear: set one of them",
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
        if lines.peek().is_none() {
            return Err(wrong(&"there is no secret in it: write one a line"));
        }
        Secrets::new(lines).map_err(|error| wrong(&error))
    }

    /// The cluster's secrets, for a node that links by them.
    ///
    /// # Errors
    /// As `secrets`; `Config` where it is to join a node of another machine and there are none: it would be refused there.
    pub fn link_secrets(&self) -> Result<Secrets> {
        let secrets = self.secrets()?;
        let elsewhere = self.join.iter().find(|address| !address.is_this_machine());
        match elsewhere {
            Some(address) if secrets.is_open() => Err(Error::Config(format!(
                "JOIN {}: without CLUSTER_SECRET a node links with nodes of its own machine only, and that is another: {REMEDY}",
                address.as_str()
            ))),
            Some(_) | None => Ok(secrets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pairs: &[(&'static str, &str)]) -> Texts {
        pairs.iter().map(|&(name, text)| (name, text.to_owned())).collect()
    }

    fn config(flags: &[(&'static str, &str)]) -> Result<Config> {
        Config::new(&Layers { flags: texts(flags), ..Layers::default() }.settings())
    }

    fn setting(layers: &Layers, name: &str) -> (String, String) {
        let settings = layers.settings();
        let setting = settings.iter().find(|setting| setting.knob.name == name).expect(name);
        (setting.text.clone(), setting.origin())
    }

    #[test]
    fn defaults_are_valid_and_are_what_the_contract_says() {
        let config = config(&[]).expect("defaults");
        assert_eq!(config.listen, None);
        assert_eq!(config.data, PathBuf::from("storage.db"));
        assert_eq!(config.durability, Durability::Always);
        let node = config.node_options("127.0.0.1:6660".into(), ([127, 0, 0, 1], 6660).into(), Secrets::Open);
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
        let http = config.http_options().expect("defaults");
        assert_eq!((http.connections_max, http.body_bytes_max), (16384, 64 << 20));
        assert!(http.tls.is_none() && http.cors_origins.is_empty());
    }

    #[test]
    fn every_knob_is_documented_and_named_once() {
        let mut names: Vec<_> = KNOBS.iter().flat_map(|knob| [&knob.name, &knob.variable]).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "two knobs share a name");
        for knob in KNOBS.iter() {
            assert!(
                knob.summary.ends_with('.') && knob.summary.len() < 100,
                "{}: {}",
                knob.name,
                knob.summary
            );
        }
    }

    #[test]
    fn a_flag_goes_before_the_environment_before_the_file_before_the_default() {
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
        assert_eq!((config.cache.0, config.max_tables, config.cors_origin.len()), (2 << 30, 7, 2));
    }

    #[test]
    fn the_environment_is_read_by_variable_and_empty_ones_are_not_set() {
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
    fn a_file_that_is_not_there_is_refused() {
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
    fn a_bad_value_names_who_gave_it_and_what_is_allowed() {
        for (flags, words) in [
            ([("cache", "64QB")].as_slice(), ["--cache", "64QB", "64MiB"]),
            (&[("cache", "1B")], ["--cache", "1B", "from 8MiB to 1TiB"]),
            (&[("tombstone-grace", "31d")], ["--tombstone-grace", "31d", "from 1s to 30d"]),
            (&[("forget-after", "1s")], ["--forget-after", "1s", "from 1m to 365d"]),
            (&[("sync-interval", "1ms")], ["--sync-interval", "1ms", "from 100ms to 1s"]),
            (&[("max-tables", "0")], ["--max-tables", "0", "from 1 to 10000"]),
            (&[("listen", "6660")], ["LISTEN", "6660", "127.0.0.1:6660"]),
            (&[("join", "a:1,b")], ["JOIN", "a:1,b", "HOST:PORT"]),
            (&[("stall-timeout", "5")], ["--stall-timeout", "5", "500ms"]),
            (&[("tls-cert", "a.pem")], ["tls-cert", "tls-key", "missing"]),
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
    fn a_secret_comes_from_the_environment_or_a_file_and_from_no_flag() {
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
    fn joining_another_machine_takes_a_secret_and_joining_this_one_does_not() {
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
    fn secrets_of_a_file_stand_one_a_line() {
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

    /// A variable that was misspelt was passed over, and the node ran with the default.
    #[test]
    fn a_variable_that_is_none_of_ours_is_told_of_and_those_of_kubernetes_are_not() {
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
