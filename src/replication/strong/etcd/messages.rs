//! What is said to etcd and what it says, in the JSON of its gRPC gateway (`/v3/...`): bytes in base64, 64-bit numbers as text, and fields
//! with a default value left out. Only what is used here.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(D::Error::custom)
    }
}

/// A number of 64 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Number(pub u64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// Reads a key, or those from `key` up to below `range_end`, ordered by key.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Range {
    pub key: Blob,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_end: Option<Blob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Number>,
    /// As of this revision, instead of the present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<Number>,
    /// Leave out the values.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keys_only: bool,
}

/// The answer to `Range`.
#[derive(Debug, Default, Deserialize)]
pub struct Ranged {
    #[serde(default)]
    pub header: Header,
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    #[serde(default)]
    pub more: bool,
}

/// What stands over each answer.
#[derive(Debug, Default, Deserialize)]
pub struct Header {
    /// The revision of the store.
    #[serde(default)]
    pub revision: Number,
}

/// A key.
#[derive(Debug, Default, Deserialize)]
pub struct KeyValue {
    #[serde(default)]
    pub key: Blob,
    #[serde(default)]
    pub value: Blob,
    /// The revision in which it was written last.
    #[serde(default)]
    pub mod_revision: Number,
}

/// Does `success` if all of `compare` hold, and `failure` otherwise, in one step.
#[derive(Debug, Default, Serialize)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Operation>,
    pub failure: Vec<Operation>,
}

/// Holds if a key was written last in a revision; 0 if it is not there.
#[derive(Debug, Serialize)]
pub struct Compare {
    result: &'static str,
    target: &'static str,
    key: Blob,
    mod_revision: Number,
}

impl Compare {
    /// The key was written last in this revision.
    pub fn written_in(key: Vec<u8>, revision: u64) -> Self {
        Self { result: "EQUAL", target: "MOD", key: Blob(key), mod_revision: Number(revision) }
    }
}

/// An operation of a transaction.
#[derive(Debug, Serialize)]
pub enum Operation {
    #[serde(rename = "request_put")]
    Put { key: Blob, value: Blob },
    #[serde(rename = "request_delete_range")]
    Delete { key: Blob },
    #[serde(rename = "request_range")]
    Range(Range),
}

/// The answer to `Txn`.
#[derive(Debug, Deserialize)]
pub struct Done {
    #[serde(default)]
    pub header: Header,
    #[serde(default)]
    pub succeeded: bool,
    #[serde(default)]
    pub responses: Vec<OperationDone>,
}

/// What an operation gave.
#[derive(Debug, Default, Deserialize)]
pub struct OperationDone {
    #[serde(default)]
    pub response_range: Option<Ranged>,
}

/// Follows the keys from `key` up to below `range_end`, from a revision on.
#[derive(Debug, Serialize)]
pub struct Watch {
    pub create_request: WatchFrom,
}

#[derive(Debug, Serialize)]
pub struct WatchFrom {
    pub key: Blob,
    pub range_end: Blob,
    pub start_revision: Number,
}

/// A line of the answer to `Watch`.
#[derive(Debug, Deserialize)]
pub struct WatchLine {
    #[serde(default)]
    pub result: Option<Watched>,
    #[serde(default)]
    pub error: Option<serde_json::Value>,
}

/// Changes. Those of one revision are never in two lines.
#[derive(Debug, Default, Deserialize)]
pub struct Watched {
    /// Nothing more comes.
    #[serde(default)]
    pub canceled: bool,
    /// Revisions below this one are gone, and so was the one to start from.
    #[serde(default)]
    pub compact_revision: Number,
    #[serde(default)]
    pub events: Vec<Event>,
}

/// A change.
#[derive(Debug, Deserialize)]
pub struct Event {
    #[serde(default)]
    pub kv: KeyValue,
    /// `DELETE`, or left out.
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

impl Event {
    /// Whether the key was deleted.
    pub fn is_delete(&self) -> bool {
        self.kind.as_deref() == Some("DELETE")
    }
}

/// Why etcd refused.
#[derive(Debug, Default, Deserialize)]
pub struct Refused {
    #[serde(default)]
    pub message: String,
    /// The status of gRPC.
    #[serde(default)]
    pub code: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_the_gateway_takes() {
        let range = Range { key: Blob(b"p/head".to_vec()), keys_only: true, ..Range::default() };
        let txn = Txn {
            compare: vec![Compare::written_in(b"p/head".to_vec(), 7)],
            success: vec![
                Operation::Put { key: Blob(b"a".to_vec()), value: Blob(vec![0, 255]) },
                Operation::Delete { key: Blob(b"b".to_vec()) },
            ],
            failure: vec![Operation::Range(range)],
        };
        let expected = r#"{"compare":[{"result":"EQUAL","target":"MOD","key":"cC9oZWFk","mod_revision":"7"}],"success":[{"request_put":{"key":"YQ==","value":"AP8="}},{"request_delete_range":{"key":"Yg=="}}],"failure":[{"request_range":{"key":"cC9oZWFk","keys_only":true}}]}"#;
        assert_eq!(serde_json::to_string(&txn).expect("JSON"), expected);
    }

    /// As etcd 3.4 sent them.
    #[test]
    fn answers_are_read_as_the_gateway_sends_them() {
        let done: Done = serde_json::from_str(
            r#"{"header":{"cluster_id":"9151734699010623715","member_id":"3153101805118352275","revision":"2","raft_term":"2"},"responses":[{"response_range":{"header":{"revision":"2"},"kvs":[{"key":"cC9oZWFk","create_revision":"2","mod_revision":"2","version":"1"}],"count":"1"}}]}"#,
        )
        .expect("an answer");
        assert!(!done.succeeded && done.header.revision == Number(2));
        let head = done.responses[0].response_range.as_ref().expect("a range");
        assert_eq!(
            (head.kvs[0].key.0.as_slice(), head.kvs[0].mod_revision),
            (b"p/head".as_slice(), Number(2))
        );
        let line: WatchLine = serde_json::from_str(
            r#"{"result":{"header":{"revision":"9"},"events":[{"kv":{"key":"YQ==","mod_revision":"9","value":"AP8="}},{"type":"DELETE","kv":{"key":"Yg==","mod_revision":"9"}}]}}"#,
        )
        .expect("a line");
        let events = line.result.expect("changes").events;
        assert_eq!((events[0].is_delete(), events[1].is_delete()), (false, true));
        let refused: Refused = serde_json::from_str(
            r#"{"error":"etcdserver: no leader","message":"etcdserver: no leader","code":14}"#,
        )
        .expect("a refusal");
        assert_eq!((refused.code, refused.message.as_str()), (14, "etcdserver: no leader"));
    }
}
