//! What lies in etcd, all of it below the prefix of the cluster:
//!
//! ```text
//! dynarust/<cluster>/head                the last commit: what it was, besides the values it wrote
//! dynarust/<cluster>/tables/<table>      a strong table
//! dynarust/<cluster>/rows/<table>/<key>  a value with its version. A deleted key is not there
//! dynarust/<cluster>/waiting             a node whose commits come too late again and again
//! ```
//! Every commit is one transaction that writes the head, and compares that the head is the one its writer saw. So the heads are the log:
//! each names the one before, and whoever sees the changes of one revision sees a whole commit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::messages::{Blob, Compare, Event, KeyValue, Operation, Range, Txn};
use crate::{
    core::{
        clock::NodeId,
        name::{Key, TableName},
        protocol::message::Row,
        register::Payload,
        strong::entry::{Effect, Name},
    },
    error::{Error, Result},
};

/// The first byte of each value.
const FORMAT: u8 = 1;

/// The names of a cluster's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    prefix: String,
}

/// What a commit was, besides the values it wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Random, so that a lost commit and the one in its place are told apart.
    pub id: u64,
    /// The id of the commit before; 0 for the first.
    pub previous: u64,
    /// Who made it.
    pub node: NodeId,
    /// The latest reading of the clock of all commits so far: whatever is committed next is later.
    pub latest_hlc: u64,
    /// The tables it made.
    pub created: Vec<TableName>,
    /// The tombstones it wrote.
    pub deleted: Vec<(TableName, Row)>,
}

/// A commit, and where it is in the order.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// The revision of etcd.
    pub revision: u64,
    /// What it was.
    pub head: Head,
    /// The values it wrote.
    pub rows: Vec<(TableName, Row)>,
}

impl Commit {
    /// A commit of these effects, after the one before. Where a key is written twice, the last register stays.
    pub fn new(id: u64, previous: u64, node: NodeId, latest_hlc: u64, effects: Vec<Effect>) -> Self {
        let mut latest_hlc = latest_hlc;
        let (mut created, mut written) = (Vec::new(), BTreeMap::<Name, Row>::new());
        for effect in effects {
            match effect {
                Effect::Create(table) => created.push(table),
                Effect::Merge(table, row) => {
                    latest_hlc = latest_hlc.max(row.marker.timestamp.hlc);
                    written.insert((table, row.key.clone()), row);
                }
                // Each node removes its own tombstones: etcd has none.
                Effect::Sweep(_) => {}
            }
        }
        let written = written.into_iter().map(|((table, _), row)| (table, row));
        let (deleted, rows) = written.partition(|(_, row)| matches!(row.payload, Payload::Deleted));
        Self { revision: 0, head: Head { id, previous, node, latest_hlc, created, deleted }, rows }
    }

    /// What it does, in the order in which it is applied.
    pub fn effects(&self) -> impl Iterator<Item = Effect> {
        let created = self.head.created.iter().cloned().map(Effect::Create);
        let written = self.head.deleted.iter().chain(&self.rows);
        created.chain(written.map(|(table, row)| Effect::Merge(table.clone(), row.clone())))
    }
}

impl Layout {
    /// The names of this cluster's keys.
    pub fn new(cluster: u64) -> Self {
        Self { prefix: format!("dynarust/{cluster:016x}/") }
    }

    /// What all of them begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The first name with this cluster's prefix, and the first above all of them.
    pub fn all(&self) -> (Blob, Blob) {
        self.below("")
    }

    /// The names below `tables/` or `rows/<table>/`.
    fn below(&self, folder: &str) -> (Blob, Blob) {
        let first = format!("{}{folder}", self.prefix).into_bytes();
        let mut end = first.clone();
        // A prefix ends with a slash, and no byte of it is 255.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        (Blob(first), Blob(end))
    }

    fn name(&self, rest: &str) -> Blob {
        Blob(format!("{}{rest}", self.prefix).into_bytes())
    }

    fn row(&self, table: &TableName, key: &Key) -> Blob {
        self.name(&format!("rows/{table}/{}", key.as_str()))
    }

    /// Reads the head.
    pub fn read_head(&self, keys_only: bool) -> Range {
        Range { key: self.name("head"), keys_only, ..Range::default() }
    }

    /// Reads the head as of a revision.
    pub fn read_head_at(&self, revision: u64) -> Range {
        Range { revision: Some(super::messages::Number(revision)), ..self.read_head(false) }
    }

    /// Reads all names of tables, as of a revision.
    pub fn read_tables(&self, revision: u64) -> Range {
        let (key, end) = self.below("tables/");
        Range {
            key,
            range_end: Some(end),
            revision: Some(super::messages::Number(revision)),
            ..Range::default()
        }
    }

    /// Reads up to `limit` rows of a table after a key, as of a revision.
    pub fn read_rows(&self, table: &TableName, after: Option<&Key>, limit: u64, revision: u64) -> Range {
        let (first, end) = self.below(&format!("rows/{table}/"));
        // The lowest name above another is that name and a zero byte.
        let first = after.map_or(first, |key| Blob([self.row(table, key).0, vec![0]].concat()));
        let number = super::messages::Number;
        Range {
            key: first,
            range_end: Some(end),
            limit: Some(number(limit)),
            revision: Some(number(revision)),
            keys_only: false,
        }
    }

    /// The transaction that makes a commit, if the head is of revision `after` (0 for none). Otherwise it reads the head, and tells the
    /// others that a node waits, if one does.
    pub fn commit(&self, commit: &Commit, after: u64, waiting: Option<NodeId>) -> Txn {
        let head = &commit.head;
        let put = |key: Blob, value: Vec<u8>| Operation::Put { key, value: Blob(value) };
        let mut success = vec![put(self.name("head"), encode(head))];
        success.extend(
            head.created.iter().map(|table| put(self.name(&format!("tables/{table}")), vec![FORMAT])),
        );
        success.extend(
            head.deleted.iter().map(|(table, row)| Operation::Delete { key: self.row(table, &row.key) }),
        );
        success.extend(commit.rows.iter().map(|(table, row)| put(self.row(table, &row.key), encode(row))));
        Txn { compare: vec![self.head_is(after)], success, failure: self.too_late(waiting) }
    }

    /// The transaction that only makes sure that the head is of revision `after`. Otherwise as `commit`.
    pub fn confirm(&self, after: u64, waiting: Option<NodeId>) -> Txn {
        let success = self.too_late(None);
        Txn { compare: vec![self.head_is(after)], success, failure: self.too_late(waiting) }
    }

    fn too_late(&self, waiting: Option<NodeId>) -> Vec<Operation> {
        let mut failure = vec![Operation::Range(self.read_head(true))];
        failure.extend(
            waiting.map(|node| Operation::Put { key: self.name("waiting"), value: Blob(encode(&node)) }),
        );
        failure
    }

    fn head_is(&self, after: u64) -> Compare {
        Compare::written_in(self.name("head").0, after)
    }

    /// The head, if it is there.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn head(&self, kvs: &[KeyValue]) -> Result<Option<(u64, Head)>> {
        let Some(kv) = kvs.iter().find(|kv| kv.key == self.name("head")) else { return Ok(None) };
        Ok(Some((kv.mod_revision.0, decode(&kv.value.0)?)))
    }

    /// The tables.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn tables(&self, kvs: &[KeyValue]) -> Result<Vec<TableName>> {
        kvs.iter().map(|kv| self.rest(&kv.key, "tables/").and_then(TableName::parse)).collect()
    }

    /// A row.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn parse_row(&self, kv: &KeyValue) -> Result<(TableName, Row)> {
        let (table, key) = self.rest(&kv.key, "rows/")?.split_once('/').ok_or_else(|| foreign(&kv.key))?;
        let row: Row = decode(&kv.value.0)?;
        if row.key.as_str() != key {
            return Err(foreign(&kv.key));
        }
        Ok((TableName::parse(table)?, row))
    }

    /// The commits that these changes are, in order, and the nodes that wait.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn commits(&self, events: &[Event]) -> Result<(Vec<Commit>, Vec<NodeId>)> {
        let (mut commits, mut waiting) = (Vec::new(), Vec::new());
        for events in events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
            let written = || events.iter().filter(|event| !event.is_delete()).map(|event| &event.kv);
            for kv in written().filter(|kv| kv.key == self.name("waiting")) {
                waiting.push(decode(&kv.value.0)?);
            }
            let Some(kv) = written().find(|kv| kv.key == self.name("head")) else { continue };
            let rows = written().filter(|kv| self.rest(&kv.key, "rows/").is_ok());
            commits.push(Commit {
                revision: kv.mod_revision.0,
                head: decode(&kv.value.0)?,
                rows: rows.map(|kv| self.parse_row(kv)).collect::<Result<_>>()?,
            });
        }
        Ok((commits, waiting))
    }

    /// What follows the folder in a name.
    fn rest<'a>(&self, name: &'a Blob, folder: &str) -> Result<&'a str> {
        let text = std::str::from_utf8(&name.0).map_err(|_| foreign(name))?;
        let rest = text.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix(folder));
        rest.ok_or_else(|| foreign(name))
    }
}

fn foreign(name: &Blob) -> Error {
    Error::Corrupt(format!(
        "the key {:?} in etcd, which no node has written: nobody else may write below this prefix",
        String::from_utf8_lossy(&name.0)
    ))
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, vec![FORMAT]).expect("what is kept in etcd can be encoded")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => {
            postcard::from_bytes(rest).map_err(|_| Error::Corrupt("a value in etcd cannot be read".into()))
        }
        Some((format, _)) => Err(Error::Corrupt(format!(
            "a value in etcd has format {format}, which this version of DynaRust does not know"
        ))),
        None => Err(Error::Corrupt("a value in etcd is empty".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{clock::Timestamp, json::Value, register::Register},
        replication::strong::etcd::messages::Number,
    };

    fn name(table: &str) -> TableName {
        TableName::parse(table).expect("a name")
    }

    fn row(key: &str, value: Option<&str>, hlc: u64) -> Row {
        let timestamp = Timestamp { hlc, node: NodeId(1) };
        let register = match value {
            Some(value) => Register::live(Value::parse(value).expect("JSON"), None, timestamp),
            None => Register::deleted(timestamp),
        };
        Row::new(Key::parse(key).expect("a key"), register)
    }

    fn commit() -> Commit {
        let effects = vec![
            Effect::Create(name("t")),
            Effect::Merge(name("t"), row("a/b", Some("1"), 5)),
            Effect::Merge(name("t"), row("gone", Some("1"), 6)),
            Effect::Merge(name("t"), row("gone", None, 7)),
            Effect::Merge(name("t"), row("a/b", Some("2"), 8)),
        ];
        Commit::new(11, 10, NodeId(1), 3, effects)
    }

    #[test]
    fn of_a_key_that_is_written_twice_the_last_register_stays() {
        let commit = commit();
        assert_eq!(commit.head.latest_hlc, 8);
        assert_eq!(commit.rows, [(name("t"), row("a/b", Some("2"), 8))]);
        assert_eq!(commit.head.deleted, [(name("t"), row("gone", None, 7))]);
        assert_eq!(commit.effects().count(), 3);
        assert_eq!(Commit::new(1, 0, NodeId(1), 9, Vec::new()).head.latest_hlc, 9, "it never runs backwards");
    }

    /// What is put is what the watchers see.
    #[test]
    fn a_commit_is_read_from_its_changes() {
        let layout = Layout::new(0xabc);
        assert_eq!(layout.prefix(), "dynarust/0000000000000abc/");
        let commit = Commit { revision: 9, ..commit() };
        let event = |operation: Operation, revision: u64| -> Event {
            let (kind, key, value) = match operation {
                Operation::Put { key, value } => ("PUT", key, value),
                Operation::Delete { key } => ("DELETE", key, Blob::default()),
                Operation::Range(_) => panic!("a read changes nothing"),
            };
            let kv = serde_json::json!({ "key": key, "value": value, "mod_revision": Number(revision) });
            serde_json::from_value(serde_json::json!({ "type": kind, "kv": kv })).expect("an event")
        };
        let txn = layout.commit(&commit, 8, Some(NodeId(1)));
        let mut events: Vec<_> = txn.success.into_iter().map(|put| event(put, 9)).collect();
        events.extend(txn.failure.into_iter().skip(1).map(|put| event(put, 10)));
        assert_eq!(layout.commits(&events).expect("readable"), (vec![commit], vec![NodeId(1)]));
        let foreign: Event = event(Operation::Put { key: layout.name("rows/t"), value: Blob(vec![1]) }, 9);
        events.push(foreign);
        assert_eq!(layout.commits(&events[..1]).expect("readable").0.len(), 1);
    }

    #[test]
    fn rows_are_found_by_table_and_key_and_the_next_page_begins_after_the_last_key() {
        let layout = Layout::new(1);
        let page = layout.read_rows(&name("t"), None, 5, 9);
        assert_eq!(page.key.0, b"dynarust/0000000000000001/rows/t/");
        assert_eq!(page.range_end.expect("an end").0, b"dynarust/0000000000000001/rows/t0");
        let after = Key::parse("k").expect("a key");
        let page = layout.read_rows(&name("t"), Some(&after), 5, 9);
        assert_eq!(page.key.0, b"dynarust/0000000000000001/rows/t/k\0");
        let kv = KeyValue {
            key: layout.row(&name("t"), &Key::parse("a/b").expect("a key")),
            value: Blob(encode(&row("a/b", Some("2"), 8))),
            mod_revision: Number(3),
        };
        assert_eq!(layout.parse_row(&kv).expect("a row"), (name("t"), row("a/b", Some("2"), 8)));
        let of_another = KeyValue { value: Blob(encode(&row("c", Some("2"), 8))), ..kv };
        assert!(matches!(layout.parse_row(&of_another), Err(Error::Corrupt(_))));
    }

    #[test]
    fn a_value_of_another_format_is_refused() {
        assert!(matches!(decode::<NodeId>(&[2, 1]), Err(Error::Corrupt(why)) if why.contains("format 2")));
        assert!(decode::<NodeId>(&[]).is_err() && decode::<Row>(&[FORMAT, 1]).is_err());
    }
}
