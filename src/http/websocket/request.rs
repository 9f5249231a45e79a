//! What a client may send on a WebSocket, and the responses. Each message is one JSON object, parsed at once and completely, so that a
//! session acts only on valid requests and answers others with what is allowed.

use std::{borrow::Cow, fmt::Write as _, sync::Arc};

use serde::Deserialize;
use serde_json::{error::Category, value::RawValue};

pub use super::operation::Operation;
use crate::{
    core::{
        name::{Key, TableName},
        nearest,
    },
    error::{Error, Result},
    http::{
        reports::collect::Report,
        request::{
            condition, consistency, expiry,
            path::Address,
            strict,
            transaction::{CompareBody, OperationBody, TransactionBody},
            value,
        },
        response,
    },
    node::{Action, Cursor, Start, Topic, Write},
};

/// Longest `id` of a subscription and `rid` of a request, as JSON text. Every response repeats them.
const LABEL_BYTES_MAX: usize = 128;

/// The client's name for a subscription or a request: a JSON string or number, repeated as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label(Arc<str>);

impl Label {
    /// The JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    fn parse(field: &str, raw: &RawValue) -> Result<Self> {
        let text = raw.get();
        let is_scalar = text.starts_with(|first: char| matches!(first, '"' | '-' | '0'..='9'));
        if !is_scalar || text.len() > LABEL_BYTES_MAX {
            return Err(Error::BadRequest(format!(
                "{field:?} must be a string or a number of at most {LABEL_BYTES_MAX} bytes"
            )));
        }
        Ok(Self(text.into()))
    }
}

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Follow a topic. Its events carry the label.
    Subscribe {
        /// The subscription's name on this connection.
        id: Label,
        /// The topics to follow.
        topic: Topic,
        /// Where to start.
        start: Start,
    },
    /// Stop following.
    Unsubscribe {
        /// The subscription's name.
        id: Label,
    },
    /// Everything that gets a `result`.
    Call(Operation),
}

/// What a client needs to match a response to its request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReplyTo {
    /// The request's own label.
    rid: Option<Label>,
    /// The subscription it is about.
    sub: Option<Label>,
    /// Whether the request gets a `result`; others get an `error`.
    wants_result: bool,
}

impl ReplyTo {
    /// The event for a completed request, with the cursor to resume the subscription from, if known.
    pub fn done(&self, event: &str, cursor: Option<Cursor>) -> String {
        let cursor = cursor.map(|cursor| format!(r#","cursor":"{cursor}""#)).unwrap_or_default();
        self.open(event) + &cursor + "}"
    }

    /// The result of a completed operation: the members of `body`, a JSON object.
    pub fn result(&self, body: &str) -> String {
        let members =
            body.strip_prefix('{').and_then(|body| body.strip_suffix('}')).expect("a body is a JSON object");
        let comma = if members.is_empty() { "" } else { "," };
        format!(r#"{},"status":200{comma}{members}}}"#, self.open("result"))
    }

    /// The response to a failed request: the problem's members, including `status` and `error`.
    pub fn problem(&self, error: &Error, request_id: &str) -> String {
        let problem = response::problem_object(error, request_id).to_string();
        let members = problem.strip_prefix('{').expect("a problem is a JSON object");
        let event = if self.wants_result { "result" } else { "error" };
        format!("{},{members}", self.open(event))
    }

    /// The start of a response object.
    fn open(&self, event: &str) -> String {
        let mut text = format!(r#"{{"event":"{event}""#);
        for (field, label) in [("rid", &self.rid), ("sub", &self.sub)] {
            if let Some(label) = label {
                write!(text, r#","{field}":{}"#, label.as_json()).expect("writing to a String cannot fail");
            }
        }
        text
    }
}

/// Parses a message. Even for an invalid one it returns as much of the reply address as possible. An expiry must lie after `now_ms`, Unix
/// milliseconds.
pub fn parse(text: &str, value_bytes_max: u64, now_ms: u64) -> (ReplyTo, Result<Request>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let fields = match Fields::parse(text) {
        Ok(fields) => fields,
        Err(error) => {
            // Other members may be invalid while these are valid.
            let known = serde_json::from_str::<Known>(text).ok();
            let reply_to = known.and_then(|known| known.reply_to().ok());
            return (reply_to.unwrap_or_default(), Err(error));
        }
    };
    let known = Known { op: Some(Cow::Borrowed(&fields.op)), rid: fields.rid, id: fields.id };
    match known.reply_to() {
        Ok(reply_to) => {
            let request = fields.request(reply_to.sub.as_ref(), value_bytes_max, now_ms);
            (reply_to, request)
        }
        Err(error) => (ReplyTo::default(), Err(error)),
    }
}

/// The members that identify a request.
#[derive(Deserialize)]
struct Known<'a> {
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow)]
    rid: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

impl Known<'_> {
    fn reply_to(&self) -> Result<ReplyTo> {
        Ok(ReplyTo {
            rid: self.rid.map(|rid| Label::parse("rid", rid)).transpose()?,
            sub: self.id.map(|id| Label::parse("id", id)).transpose()?,
            wants_result: matches!(
                self.op.as_deref(),
                Some("get" | "put" | "patch" | "delete" | "delete_all" | "txn" | "report" | "ping")
            ),
        })
    }
}

/// All members a message may have. Which ones an operation needs is checked later.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    op: String,
    #[serde(borrow)]
    rid: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    table: Option<String>,
    key: Option<String>,
    prefix: Option<String>,
    confirm: Option<String>,
    since: Option<String>,
    snapshot: Option<bool>,
    #[serde(borrow, default, deserialize_with = "value::present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "value::present")]
    patch: Option<&'a RawValue>,
    #[serde(borrow)]
    ttl: Option<&'a RawValue>,
    #[serde(borrow)]
    expires_at: Option<&'a RawValue>,
    if_match: Option<String>,
    if_none_match: Option<String>,
    force: Option<bool>,
    token: Option<String>,
    read: Option<String>,
    report: Option<String>,
    partition: Option<u8>,
    #[serde(borrow)]
    compare: Option<Vec<CompareBody<'a>>>,
    #[serde(borrow)]
    success: Option<Vec<OperationBody<'a>>>,
    #[serde(borrow)]
    failure: Option<Vec<OperationBody<'a>>>,
}

const OPERATIONS: &str = r#"a message is one object with "op": sub, unsub, get, put, patch, delete, delete_all, txn, report or ping"#;

impl<'a> Fields<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        // serde would accept a list of the members in order.
        if !text.trim_start().starts_with('{') {
            return Err(Error::BadRequest(OPERATIONS.into()));
        }
        serde_json::from_str(text).map_err(|error| match error.classify() {
            Category::Data => match strict::explain::<Fields<'_>>(text, &error) {
                Error::BadJson(why) => Error::BadRequest(format!("{why}; {OPERATIONS}")),
                unknown => unknown,
            },
            Category::Syntax | Category::Eof | Category::Io => {
                Error::BadJson(format!("{error}; {OPERATIONS}"))
            }
        })
    }

    /// Refuses members that belong to another operation. `rid` and `id` are repeated in every response.
    fn check(&self) -> Result<()> {
        let given = [
            ("table", self.table.is_some()),
            ("key", self.key.is_some()),
            ("prefix", self.prefix.is_some()),
            ("confirm", self.confirm.is_some()),
            ("since", self.since.is_some()),
            ("snapshot", self.snapshot.is_some()),
            ("value", self.value.is_some()),
            ("patch", self.patch.is_some()),
            ("ttl", self.ttl.is_some()),
            ("expires_at", self.expires_at.is_some()),
            ("if_match", self.if_match.is_some()),
            ("if_none_match", self.if_none_match.is_some()),
            ("force", self.force.is_some()),
            ("token", self.token.is_some()),
            ("read", self.read.is_some()),
            ("report", self.report.is_some()),
            ("partition", self.partition.is_some()),
            ("compare", self.compare.is_some()),
            ("success", self.success.is_some()),
            ("failure", self.failure.is_some()),
        ];
        let allowed: &[&str] = match self.op.as_str() {
            "sub" => &["table", "key", "prefix", "since", "snapshot"],
            "get" => &["table", "key", "read"],
            "put" => &["table", "key", "value", "ttl", "expires_at", "if_match", "if_none_match"],
            "patch" => &["table", "key", "patch", "value", "ttl", "expires_at", "if_match", "if_none_match"],
            "delete" => &["table", "key", "force", "if_match", "if_none_match"],
            "delete_all" => &["table", "prefix", "confirm"],
            "txn" => &["compare", "success", "failure"],
            "report" => &["report", "table", "partition"],
            "unsub" | "ping" => &[],
            // Other operations are refused later, by name.
            _ => return Ok(()),
        };
        strict::check_members(&self.op, &given, allowed)
    }

    fn request(self, sub: Option<&Label>, value_bytes_max: u64, now_ms: u64) -> Result<Request> {
        self.check()?;
        let id = || sub.cloned().ok_or_else(|| missing("id"));
        Ok(match self.op.as_str() {
            "sub" => Request::Subscribe {
                id: id()?,
                topic: self.topic()?,
                start: value::start_at(self.since.as_deref(), self.snapshot.unwrap_or(false)),
            },
            "unsub" => Request::Unsubscribe { id: id()? },
            "get" => {
                let consistency = consistency::named(self.read.as_deref())?;
                let address = Address { table: self.table()?, key: self.key()? };
                Request::Call(Operation::Get(address, consistency))
            }
            "put" => self.write(self.put(value_bytes_max, now_ms)?)?,
            "patch" => self.write(self.patch(value_bytes_max, now_ms)?)?,
            "delete" => self.write(Action::Delete { force: self.force.unwrap_or(false) })?,
            "delete_all" => {
                let table = self.table()?;
                let prefix = value::prefix_of(&table, self.prefix.as_deref(), self.confirm.as_deref())?;
                Request::Call(Operation::DeleteAll(table, prefix))
            }
            "txn" => {
                let body = TransactionBody {
                    compare: self.compare.unwrap_or_default(),
                    success: self.success.unwrap_or_default(),
                    failure: self.failure.unwrap_or_default(),
                };
                Request::Call(Operation::Transact(body.transaction(value_bytes_max, now_ms)?))
            }
            "report" => Request::Call(Operation::Report(self.report()?)),
            "ping" => Request::Call(Operation::Ping),
            "auth" => {
                return Err(Error::BadRequest(
                    "a token comes with the handshake, as Authorization: Bearer or ?access_token=, and a connection keeps it".into(),
                ));
            }
            other => return Err(Error::BadRequest(format!("unknown op {other:?}; {OPERATIONS}"))),
        })
    }

    fn report(&self) -> Result<Report> {
        Ok(match self.report.as_deref().ok_or_else(|| missing("report"))? {
            "status" => Report::Status,
            "series" => Report::Series,
            "comparisons" => Report::Comparisons,
            "roots" => Report::Roots,
            "partitions" => Report::Partitions(self.table()?),
            "differences" => {
                Report::Differences(self.table()?, self.partition.ok_or_else(|| missing("partition"))?)
            }
            other => return Err(Error::BadRequest(nearest::unknown("report", other, &Report::NAMES))),
        })
    }

    fn table(&self) -> Result<TableName> {
        TableName::parse(self.table.as_deref().ok_or_else(|| missing("table"))?)
    }

    fn key(&self) -> Result<Key> {
        Key::parse(self.key.as_deref().ok_or_else(|| missing("key"))?)
    }

    fn topic(&self) -> Result<Topic> {
        if self.table.as_deref() == Some(value::ALL_TABLES) {
            return match (&self.key, &self.prefix) {
                (None, None) => Ok(Topic::All),
                _ => Err(Error::BadRequest(
                    r#"a subscription of all tables ("table":"*") takes no "key" and no "prefix": name the table"#.into(),
                )),
            };
        }
        match (&self.key, &self.prefix) {
            (Some(_), None) => Ok(Topic::Key(self.table()?, self.key()?)),
            (None, prefix) => Topic::prefix(self.table()?, prefix.clone().unwrap_or_default()),
            (Some(_), Some(_)) => {
                Err(Error::BadRequest(r#"a subscription takes "key" or "prefix", not both"#.into()))
            }
        }
    }

    fn put(&self, value_bytes_max: u64, now_ms: u64) -> Result<Action> {
        let value = value::take_value(value_bytes_max, self.value.ok_or(Error::MissingValue)?)?;
        Ok(Action::Put { value, expiry: expiry::of_members(self.ttl, self.expires_at, now_ms)? })
    }

    /// From `patch`, as in a batch, or `value`, as in a put. Without either it renews the expiry.
    fn patch(&self, value_bytes_max: u64, now_ms: u64) -> Result<Action> {
        let expiry = expiry::of_members(self.ttl, self.expires_at, now_ms)?;
        let raw = match (self.patch, self.value) {
            (Some(_), Some(_)) => {
                return Err(Error::BadRequest(r#"a patch takes "patch" or "value", not both"#.into()));
            }
            (patch, value) => patch.or(value),
        };
        if raw.is_none() && expiry.is_none() {
            return Err(missing("patch"));
        }
        let patch = raw.map(|raw| value::take_patch(value_bytes_max, raw)).transpose()?;
        Ok(Action::Patch { patch, expiry })
    }

    fn write(&self, action: Action) -> Result<Request> {
        let condition = condition::condition(self.if_match.as_deref(), self.if_none_match.as_deref())?;
        let write = Write { key: self.key()?, action, condition };
        Ok(Request::Call(Operation::Write(self.table()?, write)))
    }
}

fn missing(field: &str) -> Error {
    Error::BadRequest(format!("the message has no {field:?}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        core::json::Value,
        node::{
            Condition, Expiry, Patch,
            strong::{self, Compare, Consistency, Expected, Transaction},
        },
    };

    const VALUE_BYTES_MAX: u64 = 100;
    const NOW_MS: u64 = 1_795_000_000_000;

    fn parsed(text: &str) -> Result<Request> {
        parse(text, VALUE_BYTES_MAX, NOW_MS).1
    }

    fn label(text: &str) -> Label {
        Label(text.into())
    }

    fn table() -> TableName {
        TableName::parse("t").expect("a table name")
    }

    fn key() -> Key {
        Key::parse("k").expect("a key")
    }

    fn write(action: Action, condition: Condition) -> Request {
        Request::Call(Operation::Write(table(), Write { key: key(), action, condition }))
    }

    fn value(text: &str) -> Value {
        Value::parse(text).expect("JSON")
    }

    #[test]
    fn a_subscription_is_to_a_key_a_prefix_or_a_table() {
        let cursor = Cursor { epoch: 1, sequence: 2, agreed_ms: 0, cluster: 0 };
        let prefix = |prefix: &str| Topic::Prefix(table(), prefix.into());
        let cases = [
            (r#""key":"k""#, Topic::Key(table(), key()), Start::Now),
            (r#""prefix":"p","snapshot":true"#, prefix("p"), Start::Snapshot),
            (r#""since":"00000001.2""#, prefix(""), Start::After(cursor)),
            (r#""since":"of another life","snapshot":true"#, prefix(""), Start::Resync),
        ];
        for (members, topic, start) in cases {
            let text = format!(r#"{{"op":"sub","id":"a","table":"t",{members}}}"#);
            assert_eq!(parsed(&text), Ok(Request::Subscribe { id: label("\"a\""), topic, start }), "{text}");
        }
        assert_eq!(parsed(r#"{"op":"unsub","id":7}"#), Ok(Request::Unsubscribe { id: label("7") }));
    }

    #[test]
    fn a_report_is_about_the_cluster_a_table_or_a_partition() {
        let about = |members: &str| match parsed(&format!(r#"{{"op":"report",{members}}}"#)) {
            Ok(Request::Call(Operation::Report(report))) => Ok(report),
            Ok(other) => panic!("{members}: {other:?}"),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(about(r#""report":"status""#), Ok(Report::Status));
        assert_eq!(about(r#""report":"partitions","table":"t""#), Ok(Report::Partitions(table())));
        let differences = about(r#""report":"differences","table":"t","partition":255"#);
        assert_eq!(differences, Ok(Report::Differences(table(), 255)));
        for (members, says) in [
            (r#""rid":1"#, "no \"report\""),
            (r#""report":"differences","table":"t""#, "no \"partition\""),
            (r#""report":"partitions""#, "no \"table\""),
            (r#""report":"differences","table":"t","partition":256"#, "256"),
            (r#""report":"statis""#, "status"),
        ] {
            let why = about(members).expect_err(members);
            assert!(why.contains(says), "{members}: {why}");
        }
    }

    #[test]
    fn a_transaction_is_parsed_as_over_rest() {
        let text = r#"{"op":"txn","compare":[{"table":"t","key":"k","absent":true}],
            "success":[{"op":"put","table":"t","key":"k","value":1}],"failure":[{"op":"get","table":"t","key":"k"}]}"#;
        let compare = vec![Compare { table: table(), key: key(), expected: Expected::Absent(true) }];
        let put = Action::Put { value: value("1"), expiry: None };
        let write = Write { key: key(), action: put, condition: Condition::Always };
        let success = vec![strong::Operation::Write { table: table(), write }];
        let failure = vec![strong::Operation::Get { table: table(), key: key() }];
        let transaction = Transaction { compare, success, failure };
        assert_eq!(parsed(text), Ok(Request::Call(Operation::Transact(transaction))));
        let many = vec![r#"{"op":"get","table":"t","key":"k"}"#; 129].join(",");
        for (text, words) in [
            (format!(r#"{{"op":"txn","success":[{many}]}}"#), "at most 128"),
            (r#"{"op":"txn","table":"t"}"#.into(), "compare, success, failure"),
            (r#"{"op":"txn","sucess":[]}"#.into(), "mean \"success\"?"),
            (r#"{"op":"put","table":"t","key":"k","value":1,"read":"stale"}"#.into(), "no meaning for a put"),
            (r#"{"op":"get","table":"t","key":"k","read":"stael"}"#.into(), "stale"),
        ] {
            let refused = parsed(&text).expect_err(words).to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn operations_match_those_of_rest() {
        let address = || Address { table: table(), key: key() };
        let get = Operation::Get(address(), Consistency::Linearizable);
        assert_eq!(parsed(r#"{"op":"get","table":"t","key":"k"}"#), Ok(Request::Call(get)));
        let stale = Operation::Get(address(), Consistency::Stale);
        assert_eq!(parsed(r#"{"op":"get","table":"t","key":"k","read":"stale"}"#), Ok(Request::Call(stale)));
        assert_eq!(parsed(r#"{"op":"ping"}"#), Ok(Request::Call(Operation::Ping)));
        for (members, prefix) in [(r#""prefix":"p""#, "p"), (r#""confirm":"t""#, "")] {
            let text = format!(r#"{{"op":"delete_all","table":"t",{members}}}"#);
            let all = Operation::DeleteAll(table(), prefix.into());
            assert_eq!(parsed(&text), Ok(Request::Call(all)), "{text}");
        }
        let after = |seconds| Some(Expiry::After(Duration::from_secs(seconds)));
        let put = |text, expiry| Action::Put { value: value(text), expiry };
        let patch = |patch, expiry| Action::Patch { patch, expiry };
        let version = "0000000000000001-000000000000000a".parse().expect("a version");
        let cases = [
            (r#""put","value":null"#, put("null", None), Condition::Always),
            (r#""put","value":[1.10, 2],"ttl":2"#, put("[1.10,2]", after(2)), Condition::Always),
            (r#""put","value":1,"ttl":"1m","if_none_match":"*""#, put("1", after(60)), Condition::Absent),
            (
                r#""patch","patch":{"a":null}"#,
                patch(Some(Patch::Merge(value(r#"{"a":null}"#))), None),
                Condition::Always,
            ),
            (r#""patch","value":1"#, patch(Some(Patch::Merge(value("1"))), None), Condition::Always),
            (
                r#""patch","patch":[],"expires_at":1795000000001"#,
                patch(Some(Patch::Json(value("[]"))), Some(Expiry::At(NOW_MS + 1))),
                Condition::Always,
            ),
            (r#""patch","ttl":2"#, patch(None, after(2)), Condition::Always),
            (r#""delete""#, Action::Delete { force: false }, Condition::Always),
            (
                r#""delete","force":true,"if_match":"0000000000000001-000000000000000a""#,
                Action::Delete { force: true },
                Condition::Version(vec![version]),
            ),
        ];
        for (members, action, condition) in cases {
            let text = format!(r#"{{"table":"t","key":"k","op":{members}}}"#);
            assert_eq!(parsed(&text), Ok(write(action, condition)), "{text}");
        }
    }

    #[test]
    fn an_invalid_message_gets_an_explanation() {
        let cases = [
            ("", "bad-request"),
            ("{", "bad-json"),
            (r#"["sub"]"#, "bad-request"),
            ("{}", "bad-request"),
            (r#"{"op":"drop"}"#, "bad-request"),
            (r#"{"op":"delete_all","table":"t"}"#, "bad-request"),
            (r#"{"op":"delete_all","table":"t","confirm":"u"}"#, "bad-request"),
            (r#"{"op":"delete_all","table":"t","confirm":"t","prefix":"p"}"#, "bad-request"),
            (r#"{"op":"auth","token":"x"}"#, "bad-request"),
            (r#"{"op":"get","table":"t"}"#, "bad-request"),
            (r#"{"op":"get","table":"t","key":""}"#, "bad-name"),
            (r#"{"op":"get","table":"../t","key":"k"}"#, "bad-name"),
            (r#"{"op":"get","table":"t","key":"k","keys":1}"#, "bad-request"),
            (r#"{"op":"get","table":"t","key":"k","rid":{}}"#, "bad-request"),
            (r#"{"op":"get","table":"t","key":"k","ttl":1}"#, "bad-request"),
            (r#"{"op":"delete","table":"t","key":"k","value":1}"#, "bad-request"),
            (r#"{"op":"put","table":"t","key":"k","value":1,"force":true}"#, "bad-request"),
            (r#"{"op":"put","table":"t","key":"k","value":"\ud800"}"#, "bad-json"),
            (r#"{"op":"patch","table":"t","key":"k","patch":1,"value":2}"#, "bad-request"),
            (r#"{"op":"patch","table":"t","key":"k"}"#, "bad-request"),
            (r#"{"op":"unsub","id":"a","table":"t"}"#, "bad-request"),
            (r#"{"op":"put","table":"t","key":"k"}"#, "missing-value"),
            (r#"{"op":"put","table":"t","key":"k","value":1,"ttl":[]}"#, "bad-request"),
            (r#"{"op":"sub","table":"t"}"#, "bad-request"),
            (r#"{"op":"sub","id":"a","table":"t","key":"k","prefix":"k"}"#, "bad-request"),
            (r#"{"op":"sub","id":"a"}"#, "bad-request"),
            (r#"{"op":"sub","id":"a","table":"*","key":"k"}"#, "bad-request"),
            (r#"{"op":"sub","id":"a","table":"*","prefix":""}"#, "bad-request"),
            (r#"{"op":"get","table":"*","key":"k"}"#, "bad-name"),
            (r#"{"op":"unsub"}"#, "bad-request"),
        ];
        for (text, code) in cases {
            let error = parsed(text).expect_err(text);
            assert_eq!(response::status_and_code(&error).1, code, "{text}: {error}");
        }
        let long = format!(
            r#"{{"op":"put","table":"t","key":"k","value":"{}"}}"#,
            "x".repeat(VALUE_BYTES_MAX as usize)
        );
        assert_eq!(parsed(&long), Err(Error::TooLarge { what: "value", limit: VALUE_BYTES_MAX }));
        let prefix =
            |bytes: usize| format!(r#"{{"op":"sub","id":1,"table":"t","prefix":"{}"}}"#, "p".repeat(bytes));
        assert!(parsed(&prefix(1024)).is_ok());
        assert!(matches!(parsed(&prefix(1025)), Err(Error::BadName(_))));
        let deep = format!(r#"{{"op":"put","table":"t","key":"k","value":{}"#, "[".repeat(100_000));
        assert!(matches!(parsed(&deep), Err(Error::BadJson(_))));
    }

    #[test]
    fn a_response_repeats_the_labels_of_its_request() {
        let (reply_to, _) = parse(r#"{"op":"ping","rid":"\u0041 7"}"#, VALUE_BYTES_MAX, NOW_MS);
        assert_eq!(reply_to.result("{}"), r#"{"event":"result","rid":"\u0041 7","status":200}"#);
        assert_eq!(
            reply_to.result(r#"{"a":1}"#),
            r#"{"event":"result","rid":"\u0041 7","status":200,"a":1}"#
        );
        let (reply_to, _) = parse(r#"{"op":"sub","id":"a","table":"t","rid":1}"#, VALUE_BYTES_MAX, NOW_MS);
        assert_eq!(reply_to.done("subscribed", None), r#"{"event":"subscribed","rid":1,"sub":"a"}"#);
        let cursor = Cursor { epoch: 1, sequence: 2, agreed_ms: 0, cluster: 0 };
        let subscribed = r#"{"event":"subscribed","rid":1,"sub":"a","cursor":"00000001.2"}"#;
        assert_eq!(reply_to.done("subscribed", Some(cursor)), subscribed);
    }

    #[test]
    fn a_failed_operation_gets_a_result_and_other_failures_an_error() {
        let answered = |text: &str| {
            let (reply_to, request) = parse(text, VALUE_BYTES_MAX, NOW_MS);
            let problem = reply_to.problem(&request.expect_err("a bad request"), "id-1");
            serde_json::from_str::<serde_json::Value>(&problem).expect("JSON")
        };
        let result = answered(r#"{"op":"get","rid":7,"table":"t"}"#);
        assert_eq!(
            (&result["event"], &result["rid"], &result["status"]),
            (&"result".into(), &7.into(), &400.into())
        );
        assert_eq!(result["request_id"], "id-1");
        let error = answered(r#"{"op":"sub","id":"a"}"#);
        assert_eq!(
            (&error["event"], &error["sub"], &error["error"]),
            (&"error".into(), &"a".into(), &"bad-request".into())
        );
        assert_eq!(answered("hello")["event"], "error");
        let typo = answered(r#"{"op":"get","rid":8,"tabel":"t","key":"k"}"#);
        assert_eq!((&typo["event"], &typo["rid"]), (&"result".into(), &8.into()));
    }
}
