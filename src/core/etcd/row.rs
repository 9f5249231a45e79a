//! The rows of the table. Their names are text, and order as the bytes of etcd's keys do: each byte is the character of that number. So an
//! ASCII key can be read as it is, a prefix stays a prefix, and a byte from 128 on takes two bytes of a name.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::request::{KeyValue, Keys, Problem};
use crate::{
    core::{
        json::Value,
        name::{KEY_BYTES_MAX, Key},
    },
    error::{Error, Result},
};

/// The name of the row that has the revision.
pub const HEAD: &str = "head";
/// What the names of keys begin with.
const KEY: &str = "key:";
/// What the names of leases begin with.
const LEASE: &str = "lease:";
/// What the names of the rows begin with that tell which keys a lease has.
const LEASED: &str = "leased:";
/// Most bytes of a key, as the name of a row has them: what is left in the longest name of a row.
pub const KEY_TEXT_BYTES_MAX: usize = KEY_BYTES_MAX - LEASED.len() - 16 - 1;

/// By how much the revision is raised where some may be lost: more than a cluster writes in a day, so nobody was told of as many that are not here.
const RAISED_BY: i64 = 1_000_000_000;

/// The row that has the revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The newest revision.
    pub revision: i64,
    /// The oldest revision that can be read; -1 if none was compacted.
    pub compacted: i64,
}

impl Default for Head {
    /// That of an empty store: etcd begins with revision 1, and even what was before any can be compacted.
    fn default() -> Self {
        Self { revision: 1, compacted: -1 }
    }
}

impl Head {
    /// From its row; an empty store has none.
    ///
    /// # Errors
    /// `Conflict` if it cannot be read.
    pub fn of(value: Option<&Value>) -> Result<Self> {
        value.map_or(Ok(Self::default()), |value| Self::read(value).ok_or_else(no_head))
    }

    /// From the value of its row; `None` if that is no head.
    pub fn read(value: &Value) -> Option<Self> {
        let head: Self = serde_json::from_str(value.as_str()).ok()?;
        let is_possible = head.revision >= Self::default().revision && head.compacted <= head.revision;
        is_possible.then_some(head)
    }

    /// So far behind that nobody was told of a revision like it, and without what was before: for rows that may lack the last writes that clients
    /// were told of.
    #[must_use]
    pub fn raised(self) -> Self {
        let revision = self.revision.saturating_add(RAISED_BY);
        Self { revision, compacted: revision }
    }

    /// As its row.
    pub fn value(&self) -> Value {
        value(self)
    }
}

/// Why requests are refused whose revision nobody knows: they must not begin again at the first one.
pub fn no_head() -> Error {
    Error::Conflict(format!(
        "the row {HEAD:?} of table {table}, which has the revision of the etcd API, is missing or cannot be read. Restore a backup, or write \
         it again: PUT /{table}/key/{HEAD} {{\"value\":{{\"revision\":R,\"compacted\":R}}}}, where R is greater than every revision that \
         clients have seen, such as the greatest \"modified\" of all rows and {RAISED_BY} more",
        table = super::TABLE
    ))
}

/// The row that has the revision.
pub fn head() -> Key {
    name(HEAD.to_owned())
}

#[derive(Serialize, Deserialize)]
struct KeyRow {
    created: i64,
    modified: i64,
    version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// A lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// For how many seconds it lasts after it was kept alive.
    pub ttl: i64,
    /// Up to which key its keys are deleted, as names of rows have it, if it is being revoked in steps. No key can be given to it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
}

impl Granted {
    /// One that lasts this long, in seconds.
    pub fn new(ttl: i64) -> Self {
        Self { ttl, revoked: None }
    }

    /// From its row.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn of(value: &Value) -> Result<Self> {
        parse(LEASE, value)
    }

    /// As its row.
    pub fn value(&self) -> Value {
        value(self)
    }

    /// That its keys up to this one are deleted.
    #[must_use]
    pub fn revoked_up_to(self, key: &[u8]) -> Self {
        Self { revoked: Some(text(key)), ..self }
    }
}

/// What a row is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// The revision.
    Head,
    /// A key.
    Key(Vec<u8>),
    /// A lease.
    Lease(i64),
    /// A key of a lease.
    Leased(i64, Vec<u8>),
}

impl Named {
    /// What a row is. `None` if it is none of this table.
    pub fn of(key: &Key) -> Option<Self> {
        let text = key.as_str();
        if text == HEAD {
            return Some(Self::Head);
        }
        if let Some(key) = text.strip_prefix(KEY) {
            return Some(Self::Key(bytes(key)?));
        }
        if let Some(id) = text.strip_prefix(LEASE) {
            return Some(Self::Lease(lease_id(id)?));
        }
        let (id, key) = text.strip_prefix(LEASED)?.split_once(':')?;
        Some(Self::Leased(lease_id(id)?, bytes(key)?))
    }
}

/// The row of a key.
///
/// # Errors
/// `KeyTooLong`.
pub fn key(bytes: &[u8]) -> std::result::Result<Key, Problem> {
    let text = text(bytes);
    match text.len() {
        0..=KEY_TEXT_BYTES_MAX => Ok(name(format!("{KEY}{text}"))),
        length => Err(Problem::KeyTooLong(length as u64)),
    }
}

/// Checks that the ends of a range are no longer than keys are: what is longer begins or ends nothing, and may be kept for long.
///
/// # Errors
/// `KeyTooLong`.
pub fn check_lengths(keys: &Keys) -> std::result::Result<(), Problem> {
    let high = match keys {
        Keys::Range(_, Some(high)) => high.as_slice(),
        Keys::Range(_, None) | Keys::One(_) => &[],
    };
    key(keys.first()).and_then(|_| key(high)).map(drop)
}

/// The names of the rows of keys: at or above the first and below the second.
pub fn bounds(keys: &Keys) -> (String, String) {
    let low = format!("{KEY}{}", text(keys.first()));
    let high = match keys {
        // The least key above another is that key and a zero byte.
        Keys::One(key) => format!("{KEY}{}\0", text(key)),
        Keys::Range(_, Some(high)) => format!("{KEY}{}", text(high)),
        Keys::Range(_, None) => end_of(KEY),
    };
    (low, high)
}

/// The row of a lease.
pub fn lease(id: i64) -> Key {
    name(format!("{LEASE}{}", lease_text(id)))
}

/// The names of the rows of all leases: at or above the first and below the second.
pub fn lease_bounds() -> (String, String) {
    (LEASE.to_owned(), end_of(LEASE))
}

/// The row that tells that a lease has a key, whose row has a name already.
pub fn leased(id: i64, key: &[u8]) -> Key {
    name(format!("{LEASED}{}:{}", lease_text(id), text(key)))
}

/// The names of the rows of the keys of a lease: at or above the first and below the second.
pub fn leased_bounds(id: i64) -> (String, String) {
    let low = format!("{LEASED}{}:", lease_text(id));
    let high = end_of(&low);
    (low, high)
}

/// The same, without those that are deleted already.
pub fn left_bounds(id: i64, granted: &Granted) -> (String, String) {
    let (low, high) = leased_bounds(id);
    match &granted.revoked {
        Some(revoked) => (format!("{low}{revoked}\0"), high),
        None => (low, high),
    }
}

/// The value of the row of a key of a lease.
pub fn leased_value() -> Value {
    Value::trusted("{}".into())
}

/// The value of the row of a key. Text that JSON has as it is stays readable; other bytes are in base64.
pub fn key_value(kv: &KeyValue) -> Value {
    let text = std::str::from_utf8(&kv.value).ok();
    let text = text.filter(|text| !text.chars().any(char::is_control)).map(str::to_owned);
    value(&KeyRow {
        created: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
        lease: (kv.lease != 0).then(|| lease_text(kv.lease)),
        base64: text.is_none().then(|| BASE64_STANDARD.encode(&kv.value)),
        text,
    })
}

/// A key, of the value of its row.
///
/// # Errors
/// `Corrupt`.
pub fn parse_key(key: Vec<u8>, value: &Value) -> Result<KeyValue> {
    let row: KeyRow = parse(KEY, value)?;
    let wrong = || Error::Corrupt(format!("the row of key {:?} in table {}", text(&key), super::TABLE));
    let value = match (row.text, row.base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => BASE64_STANDARD.decode(base64).map_err(|_| wrong())?,
        (Some(_), Some(_)) | (None, None) => return Err(wrong()),
    };
    let lease = row.lease.map_or(Ok(0), |id| lease_id(&id).ok_or_else(wrong))?;
    Ok(KeyValue {
        create_revision: row.created,
        mod_revision: row.modified,
        version: row.version,
        value,
        lease,
        key,
    })
}

/// A lease's id as etcdctl writes it, but always 16 digits, so that ids of one length have no other as a prefix.
pub fn lease_text(id: i64) -> String {
    format!("{id:016x}")
}

fn lease_id(text: &str) -> Option<i64> {
    (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten().map(u64::cast_signed)
}

fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        text.push(char::from(*byte));
    }
    text
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        bytes.push(u8::try_from(u32::from(character)).ok()?);
    }
    Some(bytes)
}

/// What comes after all names that begin with `prefix`, which ends in a colon.
fn end_of(prefix: &str) -> String {
    format!("{};", prefix.trim_end_matches(':'))
}

fn name(text: String) -> Key {
    Key::parse(&text).expect("keys are short enough for the longest name")
}

fn value(row: &impl Serialize) -> Value {
    Value::trusted(serde_json::to_string(row).expect("rows can be written"))
}

fn parse<T: DeserializeOwned>(what: &str, value: &Value) -> Result<T> {
    serde_json::from_str(value.as_str())
        .map_err(|_| Error::Corrupt(format!("a row {what:?} of table {}", super::TABLE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_order_as_keys_do() {
        let mut keys: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        keys.extend((0..=255).map(|byte| vec![b'a', byte, 0xff]));
        keys.extend([b"a\0".to_vec(), b"\xff\xff".to_vec()]);
        keys.sort();
        let names: Vec<_> = keys.iter().map(|bytes| key(bytes).expect("is short")).collect();
        assert!(names.is_sorted());
        for (key, name) in keys.iter().zip(&names) {
            assert_eq!(Named::of(name), Some(Named::Key(key.clone())));
            let (low, high) = bounds(&Keys::One(key.clone()));
            let among = names.iter().filter(|name| (low.as_str()..high.as_str()).contains(&name.as_str()));
            assert_eq!(among.collect::<Vec<_>>(), [name]);
        }
        let (low, high) = bounds(&Keys::Range(vec![0], None));
        assert!(names.iter().all(|name| (low.as_str()..high.as_str()).contains(&name.as_str())));
        assert!(!(low..high).contains(&HEAD.to_owned()));
    }

    #[test]
    fn the_longest_key_fits_every_row_and_a_longer_one_is_refused() {
        let longest = vec![b'k'; KEY_TEXT_BYTES_MAX];
        assert!(key(&longest).is_ok());
        assert_eq!(leased(-1, &longest).as_str().len(), KEY_BYTES_MAX);
        assert_eq!(key(&[longest, vec![b'k']].concat()), Err(Problem::KeyTooLong(1001)));
        assert_eq!(key(&[0xff; 501]), Err(Problem::KeyTooLong(1002)));
    }

    #[test]
    fn a_key_is_the_same_after_its_row() {
        for value in [b"".to_vec(), b"text \"\\ \xc3\xa4".to_vec(), b"\x00\n".to_vec(), vec![0xff, 0xfe]] {
            for lease in [0, 1, -1, i64::MIN, i64::MAX] {
                let kv = KeyValue {
                    key: b"k".to_vec(),
                    create_revision: 2,
                    mod_revision: i64::MAX,
                    version: 3,
                    value: value.clone(),
                    lease,
                };
                let row = key_value(&kv);
                assert!(row.is_valid(), "{row:?}");
                assert_eq!(parse_key(kv.key.clone(), &row), Ok(kv));
            }
        }
    }

    #[test]
    fn leases_and_their_keys_have_rows_of_their_own() {
        assert_eq!(Named::of(&lease(-2)), Some(Named::Lease(-2)));
        assert_eq!(Named::of(&leased(7, b"a:\xff")), Some(Named::Leased(7, b"a:\xff".to_vec())));
        for granted in [Granted::new(60), Granted::new(60).revoked_up_to(b"k")] {
            assert_eq!(Granted::of(&granted.value()), Ok(granted));
        }
        let (low, high) = left_bounds(7, &Granted::new(60).revoked_up_to(b"k"));
        let is_left = |key: &[u8]| (low.as_str()..high.as_str()).contains(&leased(7, key).as_str());
        assert!(!is_left(b"a") && !is_left(b"k") && is_left(b"k\0") && is_left(b"\xff"));
        let (low, high) = leased_bounds(7);
        assert!((low.as_str()..high.as_str()).contains(&leased(7, b"\xff").as_str()));
        assert!(!(low.as_str()..high.as_str()).contains(&leased(8, b"").as_str()));
        let (low, high) = lease_bounds();
        assert!(!(low.as_str()..high.as_str()).contains(&leased(7, b"").as_str()));
    }

    #[test]
    fn a_row_that_is_no_head_is_refused_with_what_to_do_and_none_begins_at_the_first_revision() {
        assert_eq!(Head::of(None), Ok(Head { revision: 1, compacted: -1 }));
        let head = Head { revision: 7, compacted: 3 };
        assert_eq!(Head::of(Some(&head.value())), Ok(head));
        for wrong in
            [r#""mine""#, "{}", r#"{"revision":0,"compacted":-1}"#, r#"{"revision":7,"compacted":8}"#]
        {
            let refused = Head::of(Some(&Value::trusted(wrong.into()))).map_err(|error| error.to_string());
            assert!(refused.is_err_and(|why| why.contains("PUT /etcd/key/head")), "{wrong}");
        }
        assert_eq!(head.raised(), Head { revision: 1_000_000_007, compacted: 1_000_000_007 });
    }
}
