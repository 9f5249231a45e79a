//! The client against real nodes: commands in, messages out.

use dynarust_gui::{
    client::Client,
    message::{
        Change, Cluster, Command, Entry, Expected, Expiry, Guard, Message, Mode, Operation, Place,
        Transaction, Value,
    },
    settings::{Connection, Token},
};

use crate::node::{Bell, Node, certificates, token};

/// A client that is asked and answers.
pub struct Asked {
    client: Client,
    bell: Bell,
    last: u64,
}

pub fn connection(addresses: &[String], token: &str) -> Connection {
    Connection {
        addresses: addresses.to_vec(),
        tls: false,
        ca_file: String::new(),
        cert_file: String::new(),
        key_file: String::new(),
        token: Token(token.to_owned()),
    }
}

impl Asked {
    pub fn with(connection: Connection) -> Self {
        let (bell, ring) = Bell::new();
        let client = Client::start(ring).expect("a thread");
        let asked = Self { client, bell, last: 0 };
        asked.send(Command::Connect(connection));
        asked
    }

    pub fn connecting(addresses: &[String], token: &str) -> Self {
        Self::with(connection(addresses, token))
    }

    pub fn connected(node: &Node) -> Self {
        let mut asked = Self::connecting(&[node.grpc.to_string()], "");
        asked.wait("connected", |message| matches!(message, Message::Connected { .. }).then_some(()));
        asked
    }

    pub fn send(&self, command: Command) {
        self.client.send(command).expect("there is room");
    }

    /// The first message of a kind; those before it are dropped.
    #[track_caller]
    pub fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&Message) -> Option<T>) -> T {
        let client = &mut self.client;
        self.bell
            .wait_until(what, || std::iter::from_fn(|| client.receive()).find_map(|message| wanted(&message)))
    }

    #[track_caller]
    fn answer(&mut self, command: impl FnOnce(u64) -> Command) -> Message {
        self.last += 1;
        let number = self.last;
        self.send(command(number));
        self.wait("an answer", |message| match message {
            Message::Got { request, .. }
            | Message::Written { request, .. }
            | Message::Conflict { request, .. }
            | Message::Transacted { request, .. }
            | Message::Failed { request, .. }
                if *request == number =>
            {
                Some(message.clone())
            }
            _ => None,
        })
    }

    #[track_caller]
    pub fn set(&mut self, table: &str, key: &str, json: &str, guard: Guard, expiry: Expiry) -> Message {
        let (place, json) = (place(table, key), json.to_owned());
        self.answer(|request| Command::Set { request, place, json, expiry, guard })
    }

    #[track_caller]
    pub fn create(&mut self, table: &str, key: &str, json: &str) -> String {
        match self.set(table, key, json, Guard::Absent, Expiry::Never) {
            Message::Written { version, .. } => version,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn ask(&mut self, place: Place) -> Message {
        self.answer(|request| Command::Get { request, place })
    }

    #[track_caller]
    pub fn get(&mut self, table: &str, key: &str) -> Option<Entry> {
        match self.ask(place(table, key)) {
            Message::Got { entry, .. } => entry,
            other => panic!("{other:?}"),
        }
    }
}

fn place(table: &str, key: &str) -> Place {
    Place { table: table.into(), key: key.into() }
}

fn open(generation: u64, table: &str, prefix: &str) -> Command {
    going_on(generation, table, prefix, None)
}

fn going_on(generation: u64, table: &str, prefix: &str, goes_on: Option<String>) -> Command {
    Command::Open { generation, table: table.into(), prefix: prefix.into(), attempt: 0, goes_on }
}

#[test]
fn a_guarded_write_is_made_or_shows_what_somebody_else_wrote() {
    let node = Node::start(&[]);
    let mut asked = Asked::connected(&node);
    let version = asked.create("kv", "a", "{\"n\": 1.50}");
    let entry = asked.get("kv", "a").expect("it is there");
    assert_eq!((&entry.version, &entry.value), (&version, &Value::Json("{\"n\":1.50}".into())));
    for guard in [Guard::Absent, Guard::Version("0000000000000001-0000000000000001".into())] {
        let answer = asked.set("kv", "a", "2", guard.clone(), Expiry::Never);
        let Message::Conflict { theirs, .. } = answer else { panic!("{guard:?}: {answer:?}") };
        assert_eq!(theirs.as_ref(), Some(&entry), "{guard:?}");
    }
    let wrong = asked.set("kv", "a", "2", Guard::Version("0".repeat(32)), Expiry::Never);
    assert!(matches!(&wrong, Message::Failed { why, .. } if why.contains("version")), "{wrong:?}");
    let written = asked.set("kv", "a", "2", Guard::Version(version.clone()), Expiry::After(60_000));
    let Message::Written { timestamp_ms, version: newer, .. } = written else { panic!("{written:?}") };
    let entry = asked.get("kv", "a").expect("it is there");
    assert_eq!(entry.expires_at_ms, Some(timestamp_ms + 60_000));
    let delete = |version: &str| {
        let (place, version) = (place("kv", "a"), version.to_owned());
        move |request| Command::Delete { request, place, version }
    };
    assert!(matches!(asked.answer(delete(&version)), Message::Conflict { theirs: Some(_), .. }));
    assert!(matches!(asked.answer(delete(&newer)), Message::Written { .. }));
    assert_eq!(asked.get("kv", "a"), None);
    assert!(matches!(asked.answer(delete(&newer)), Message::Conflict { theirs: None, .. }));
    let bad = asked.set("kv", "b", "{", Guard::Absent, Expiry::Never);
    assert!(matches!(&bad, Message::Failed { why, .. } if why.contains("JSON")), "{bad:?}");
}

#[test]
fn an_open_table_is_listed_in_pages_and_followed() {
    let node = Node::start(&[]);
    let mut asked = Asked::connected(&node);
    for batch in 0..20 {
        let set =
            |at: usize| Operation::Set(place("kv", &format!("k{at:05}")), format!("{at}"), Expiry::Never);
        let transaction = Transaction {
            success: (batch * 128..(batch + 1) * 128).map(set).collect(),
            ..Transaction::default()
        };
        if batch == 0 {
            asked.create("kv", "first", "1");
        }
        let answer = asked.answer(|request| Command::Transact { request, transaction });
        assert!(matches!(&answer, Message::Transacted { outcome, .. } if outcome.succeeded), "{answer:?}");
    }
    asked.send(open(7, "kv", "k"));
    let mut keys = Vec::new();
    asked.wait("the end of the listing", |message| match message {
        Message::Keys { generation: 7, keys: more } => {
            keys.extend(more.iter().cloned());
            None
        }
        Message::Listed { generation: 7, is_cut: false } => Some(()),
        _ => None,
    });
    assert_eq!((keys.len(), &*keys[0], &*keys[2559]), (2560, "k00000", "k02559"));
    asked.send(Command::Details {
        generation: 7,
        table: "kv".into(),
        prefix: "k".into(),
        start: "k00100".into(),
        count: 50,
    });
    let (rows, is_all) = asked.wait("rows", |message| match message {
        Message::Details { rows, is_all, .. } => Some((rows.clone(), *is_all)),
        _ => None,
    });
    assert_eq!((rows.len(), is_all, rows[49].preview.as_str()), (50, true, "149"));
    let mut other = Asked::connected(&node);
    other.create("kv", "other", "1");
    other.set("kv", "k1", "{\"new\":true}", Guard::Absent, Expiry::After(300));
    let mut change = || {
        asked.wait("a change", |message| match message {
            Message::Changed { generation: 7, change } => Some(change.clone()),
            _ => None,
        })
    };
    let Change::Set(entry) = change() else { panic!("it was set") };
    assert_eq!((&*entry.key, entry.value), ("k1", Value::Json("{\"new\":true}".into())));
    let gone = change();
    assert!(matches!(&gone, Change::Deleted { key, expired: true, .. } if &**key == "k1"), "{gone:?}");
}

#[test]
fn a_watch_goes_on_where_it_ended_unless_the_node_no_longer_knows_what_came_since() {
    let node = Node::start(&[]);
    let mut asked = Asked::connected(&node);
    let mut other = Asked::connected(&node);
    other.create("kv", "a", "1");
    other.create("other", "a", "1");
    asked.send(open(1, "kv", ""));
    let is_listed = |wanted: u64| {
        move |message: &Message| match message {
            Message::Listed { generation, .. } if *generation == wanted => Some(()),
            _ => None,
        }
    };
    asked.wait("the listing", is_listed(1));
    other.create("kv", "b", "1");
    let cursor = |wanted: u64| {
        move |message: &Message| match message {
            Message::Position { generation, cursor } if *generation == wanted => Some(cursor.clone()),
            _ => None,
        }
    };
    asked.wait("a change", |message| matches!(message, Message::Changed { generation: 1, .. }).then_some(()));
    let reached = asked.wait("a cursor", cursor(1));
    // Nobody watches meanwhile.
    asked.send(open(2, "other", ""));
    asked.wait("the other listing", is_listed(2));
    other.create("kv", "c", "1");
    asked.send(going_on(3, "kv", "", Some(reached)));
    let mut seen = Vec::new();
    let reached = asked.wait("what was missed", |message| match message {
        Message::Changed { generation: 3, change } => {
            seen.push(change.key().to_string());
            None
        }
        Message::Anew { .. } | Message::Keys { .. } => panic!("the others are there: {message:?}"),
        message => cursor(3)(message),
    });
    assert_eq!(seen, ["c"]);
    let _node = node.restart();
    while !matches!(asked.ask(place("kv", "a")), Message::Got { entry: Some(_), .. }) {
        asked.wait("news", |_| Some(()));
    }
    for (generation, cursor) in [(4, reached), (5, "of another version".to_owned())] {
        asked.send(going_on(generation, "kv", "", Some(cursor)));
        let is_anew =
            |message: &Message| matches!(message, Message::Anew { generation: it } if *it == generation);
        asked.wait("it is listed anew", |message| is_anew(message).then_some(()));
        asked.wait("the listing", is_listed(generation));
    }
}

#[test]
fn a_transaction_does_one_list_or_the_other() {
    let node = Node::start(&[]);
    let mut asked = Asked::connected(&node);
    asked.create("kv", "a", "{\"x\":1,\"y\":2}");
    for (expected, succeeds, result) in [
        (Expected::Json("{\"y\":2,\"x\":1.0}".into()), true, "set kv/a: replaced"),
        (Expected::Exists(false), false, "get kv/a: 5"),
    ] {
        let transaction = Transaction {
            checks: vec![(place("kv", "a"), expected)],
            success: vec![Operation::Set(place("kv", "a"), "5".into(), Expiry::Never)],
            failure: vec![Operation::Get(place("kv", "a"))],
        };
        let answer = asked.answer(|request| Command::Transact { request, transaction });
        let Message::Transacted { outcome, .. } = answer else { panic!("{answer:?}") };
        assert_eq!((outcome.succeeded, outcome.results[0].as_str()), (succeeds, result));
    }
}

#[test]
fn the_tables_and_the_cluster_are_told() {
    let node = Node::start(&[]);
    let mut asked = Asked::connected(&node);
    asked.create("kv", "a", "1");
    asked.create("users", "ada", "1");
    asked.send(Command::Refresh);
    let tables = asked.wait("the tables", |message| match message {
        Message::Tables(Ok(tables)) if tables.len() == 2 => Some(tables.clone()),
        _ => None,
    });
    let figures: Vec<_> = tables.iter().map(|it| (it.name.as_str(), it.mode, it.keys)).collect();
    assert_eq!(figures, [("kv", Mode::Strong, 1), ("users", Mode::Eventual, 1)]);
    let cluster: Cluster = asked.wait("the cluster", |message| match message {
        Message::Cluster(Ok(cluster), _) if cluster.group.is_some() => Some(cluster.clone()),
        _ => None,
    });
    assert_eq!((cluster.phase.as_str(), cluster.members.len()), ("ready", 1));
    assert_eq!(cluster.members[0].state, "this node");
    assert_eq!(cluster.group.map(|group| group.leader), Some(cluster.node));
}

#[test]
fn a_node_that_dies_is_told_and_the_next_address_is_taken() {
    let (mut first, second) = (Node::start(&[]), Node::start(&[]));
    let addresses = [first.grpc.to_string(), second.grpc.to_string()];
    let mut asked = Asked::connecting(&addresses, "");
    let connected = |message: &Message| match message {
        Message::Connected { address } => Some(address.clone()),
        _ => None,
    };
    assert_eq!(asked.wait("the first", connected), addresses[0]);
    first.kill();
    let lost = asked.wait("it is lost", |message| match message {
        Message::Lost { address, why, .. } => Some((address.clone(), why.clone())),
        _ => None,
    });
    assert_eq!(lost.0, addresses[0]);
    assert_eq!(asked.wait("the second", connected), addresses[1]);
    asked.create("kv", "a", "1");
}

#[test]
fn a_node_that_comes_back_is_found_again() {
    let node = Node::start(&[]);
    let mut asked = Asked::connected(&node);
    asked.create("kv", "a", "1");
    let node = node.restart();
    // The connection may have been made anew before anybody noticed.
    while !matches!(asked.ask(place("kv", "a")), Message::Got { entry: Some(_), .. }) {
        // The node is asked again and again how it is.
        asked.wait("news", |_| Some(()));
    }
    drop(node);
    asked.wait("lost", |message| matches!(message, Message::Lost { .. }).then_some(()));
    let failed = asked.set("kv", "b", "1", Guard::Absent, Expiry::Never);
    assert!(matches!(&failed, Message::Failed { why, .. } if why.contains("no connection")), "{failed:?}");
}

#[test]
fn a_token_is_asked_for_and_a_wrong_one_ends_the_attempts() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens.toml").display().to_string();
    let secret = token(&path);
    let node = Node::start(&["--tokens", &path]);
    for token in ["", "guessed"] {
        let mut asked = Asked::connecting(&[node.grpc.to_string()], token);
        let why = asked.wait("refused", |message| match message {
            Message::Refused { why, .. } => Some(why.clone()),
            _ => None,
        });
        assert!(why.contains("token"), "{why}");
    }
    let mut asked = Asked::connecting(&[node.grpc.to_string()], &secret);
    asked.wait("connected", |message| matches!(message, Message::Connected { .. }).then_some(()));
    asked.create("kv", "a", "1");
}

#[test]
fn tls_takes_only_a_certificate_that_is_trusted() {
    let fixture = |name: &str| format!("{}/../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let node = Node::start(&["--tls-cert", &fixture("signed.pem"), "--tls-key", &fixture("signed-key.pem")]);
    let address = format!("localhost:{}", node.grpc.port());
    let mut connection = connection(&[address], "");
    connection.tls = true;
    let lost = |message: &Message| match message {
        Message::Lost { why, .. } | Message::Refused { why, .. } => Some(why.clone()),
        _ => None,
    };
    let mut asked = Asked::with(connection.clone());
    let why = asked.wait("not trusted", lost);
    assert!(why.contains("certificate"), "{why}");
    let mut missing = connection.clone();
    missing.ca_file = "/nowhere/ca.pem".into();
    let why = Asked::with(missing).wait("no file", lost);
    assert!(why.contains("/nowhere/ca.pem"), "{why}");
    connection.ca_file = fixture("authority.pem");
    let mut asked = Asked::with(connection);
    asked.wait("connected", |message| matches!(message, Message::Connected { .. }).then_some(()));
    asked.create("kv", "a", "1");
}

#[test]
fn a_node_that_asks_for_a_certificate_is_shown_one() {
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (authority, server, key) = (file("ca.pem"), file("server.pem"), file("server-key.pem"));
    let node = Node::start(&["--tls-cert", &server, "--tls-key", &key, "--tls-client-ca", &authority]);
    let mut connection = connection(&[format!("localhost:{}", node.grpc.port())], "");
    (connection.tls, connection.ca_file) = (true, authority);
    let mut asked = Asked::with(connection.clone());
    asked.wait("no certificate", |message| matches!(message, Message::Lost { .. }).then_some(()));
    (connection.cert_file, connection.key_file) = (file("me.pem"), file("me-key.pem"));
    let mut asked = Asked::with(connection);
    asked.wait("connected", |message| matches!(message, Message::Connected { .. }).then_some(()));
    asked.create("kv", "a", "1");
}
