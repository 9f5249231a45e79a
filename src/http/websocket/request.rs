//! What a client may say on a WebSocket, and the answers: one JSON object each, parsed at once and completely, so that a
//! session acts on requests that are right and answers the others with what is allowed.

use std::{fmt::Write as _, sync::Arc};

use serde::Deserialize;
use serde_json::{error::Category, value::RawValue};

use crate::{
    core::name::{Key, TableName},
    error::{Error, Result},
    http::{condition, kv, path::Address, reply, subscribe},
    node::{Action, Node, Patch, Start, Topic, Write, Written},
};

/// Longest `id` of a subscription and `rid` of a request, as JSON text. They are repeated in every answer.
const LABEL_BYTES_MAX: usize = 128;

/// A name that the client gave to a subscription or a request: a JSON string or number, repeated as it came.
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
                "{field:?} is a string or a number of at most {LABEL_BYTES_MAX} bytes"
            )));
        }
        Ok(Self(text.into()))
    }
}

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Follow a topic. Events carry the label.
    Subscribe {
        /// The subscription's name on this connection.
        id: Label,
        /// What to follow.
        topic: Topic,
        /// Where to begin.
        start: Start,
    },
    /// Stop following.
    Unsubscribe {
        /// The subscription's name.
        id: Label,
    },
    /// Everything that is answered by one `result`.
    Call(Operation),
}

/// A request that reads or writes, as it would over REST.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read a key.
    Get(Address),
    /// Change a key.
    Write(TableName, Write),
    /// Nothing: the way there and back.
    Ping,
}

impl Operation {
    /// Does it; the body of the result.
    ///
    /// # Errors
    /// Those of REST.
    pub async fn run(self, node: &Node) -> Result<String> {
        match self {
            Self::Get(address) => {
                let entry = node.get(&address.table, &address.key)?;
                entry.map(|entry| kv::with_meta(&entry)).ok_or_else(|| kv::absent(&address))
            }
            Self::Write(table, write) => {
                let deletes = matches!(write.action, Action::Delete { .. });
                let written = node.write(&table, write).await?;
                Ok(if deletes { DELETED.into() } else { wrote(written) })
            }
            Self::Ping => Ok("{}".into()),
        }
    }
}

const DELETED: &str = r#"{"deleted":true}"#;

/// As REST answers it, with what is a header there.
fn wrote(written: Written) -> String {
    let Written { timestamp, created } = written;
    format!(r#"{{"version":"{timestamp}","timestamp":{},"created":{created}}}"#, timestamp.unix_ms())
}

/// What an answer is matched to its request by.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReplyTo {
    /// The request's own number.
    rid: Option<Label>,
    /// The subscription it is about.
    sub: Option<Label>,
    /// Whether the request is one that a `result` answers; others get an `error`.
    wants_result: bool,
}

impl ReplyTo {
    /// An event that says a request was done.
    pub fn done(&self, event: &str) -> String {
        self.open(event) + "}"
    }

    /// The result of an operation that was done: the members of `body`, a JSON object.
    pub fn result(&self, body: &str) -> String {
        let members =
            body.strip_prefix('{').and_then(|body| body.strip_suffix('}')).expect("a body is a JSON object");
        let comma = if members.is_empty() { "" } else { "," };
        format!(r#"{},"status":200{comma}{members}}}"#, self.open("result"))
    }

    /// The answer to a request that failed: the problem's members, `status` and `error` among them.
    pub fn problem(&self, error: &Error, request_id: &str) -> String {
        let problem = reply::problem_object(error, request_id).to_string();
        let members = problem.strip_prefix('{').expect("a problem is a JSON object");
        let event = if self.wants_result { "result" } else { "error" };
        format!("{},{members}", self.open(event))
    }

    /// The beginning of an answer's object.
    fn open(&self, event: &str) -> String {
        let mut text = format!(r#"{{"event":"{event}""#);
        for (field, label) in [("rid", &self.rid), ("sub", &self.sub)] {
            if let Some(label) = label {
                write!(text, r#","{field}":{}"#, label.as_json())
                    .expect("a String takes whatever is written to it");
            }
        }
        text
    }
}

/// Parses a message. Even of one that is wrong it says, as far as it can, what the answer is matched by.
pub fn parse(text: &str, value_bytes_max: u64) -> (ReplyTo, Result<Request>) {
    let mut reply_to = ReplyTo::default();
    let request = Fields::parse(text).and_then(|fields| {
        reply_to.wants_result = matches!(fields.op.as_str(), "get" | "put" | "patch" | "delete" | "ping");
        reply_to.rid = fields.rid.map(|rid| Label::parse("rid", rid)).transpose()?;
        reply_to.sub = fields.id.map(|id| Label::parse("id", id)).transpose()?;
        fields.request(reply_to.sub.as_ref(), value_bytes_max)
    });
    (reply_to, request)
}

/// Every member that a message may have. Which of them an operation needs is checked after.
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
    since: Option<String>,
    #[serde(default)]
    snapshot: bool,
    #[serde(borrow, default, deserialize_with = "kv::present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "kv::present")]
    patch: Option<&'a RawValue>,
    #[serde(borrow)]
    ttl: Option<&'a RawValue>,
    if_match: Option<String>,
    if_none_match: Option<String>,
    #[serde(default)]
    force: bool,
    #[serde(rename = "token")]
    _token: Option<String>,
}

const OPERATIONS: &str = r#"a message is one object with "op": sub, unsub, get, put, patch, delete or ping"#;

impl<'a> Fields<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        // serde would take a list for the members in their order.
        if !text.trim_start().starts_with('{') {
            return Err(Error::BadRequest(OPERATIONS.into()));
        }
        serde_json::from_str(text).map_err(|error| match error.classify() {
            Category::Data => Error::BadRequest(format!("{error}; {OPERATIONS}")),
            Category::Syntax | Category::Eof | Category::Io => {
                Error::BadJson(format!("{error}; {OPERATIONS}"))
            }
        })
    }

    fn request(self, sub: Option<&Label>, value_bytes_max: u64) -> Result<Request> {
        let id = || sub.cloned().ok_or_else(|| missing("id"));
        Ok(match self.op.as_str() {
            "sub" => Request::Subscribe {
                id: id()?,
                topic: self.topic()?,
                start: subscribe::start_at(self.since.as_deref(), self.snapshot),
            },
            "unsub" => Request::Unsubscribe { id: id()? },
            "get" => Request::Call(Operation::Get(Address { table: self.table()?, key: self.key()? })),
            "put" | "patch" | "delete" => {
                Request::Call(Operation::Write(self.table()?, self.write(value_bytes_max)?))
            }
            "ping" => Request::Call(Operation::Ping),
            "auth" => {
                return Err(Error::BadRequest(
                    "this node has no access control: every request is allowed as it is".into(),
                ));
            }
            other => return Err(Error::BadRequest(format!("unknown op {other:?}; {OPERATIONS}"))),
        })
    }

    fn table(&self) -> Result<TableName> {
        TableName::parse(self.table.as_deref().ok_or_else(|| missing("table"))?)
    }

    fn key(&self) -> Result<Key> {
        Key::parse(self.key.as_deref().ok_or_else(|| missing("key"))?)
    }

    fn topic(&self) -> Result<Topic> {
        match (&self.key, &self.prefix) {
            (Some(_), None) => Ok(Topic::Key(self.table()?, self.key()?)),
            (None, prefix) => Ok(Topic::Prefix(self.table()?, prefix.clone().unwrap_or_default())),
            (Some(_), Some(_)) => {
                Err(Error::BadRequest(r#"a subscription has "key" or "prefix", not both"#.into()))
            }
        }
    }

    fn write(&self, value_bytes_max: u64) -> Result<Write> {
        let action = match self.op.as_str() {
            "put" => {
                let value = kv::take_value(value_bytes_max, self.value.ok_or(Error::MissingValue)?)?;
                Action::Put { value, ttl: kv::ttl(None, self.ttl)? }
            }
            "patch" => {
                let patch = kv::take_value(value_bytes_max, self.patch.ok_or_else(|| missing("patch"))?)?;
                // No one patches to a bare list with a merge patch, which is what put is for; so the forms do not collide.
                let is_list = patch.as_str().starts_with('[');
                Action::Patch(if is_list { Patch::Json(patch) } else { Patch::Merge(patch) })
            }
            _ => Action::Delete { force: self.force },
        };
        let condition = condition::condition(self.if_match.as_deref(), self.if_none_match.as_deref())?;
        Ok(Write { key: self.key()?, action, condition })
    }
}

fn missing(field: &str) -> Error {
    Error::BadRequest(format!("the message has no {field:?}"))
}
