//! Values as messages. Bytes are kept as a data URL in a JSON string, so that every other protocol can show them.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::value::RawValue;

use crate::{
    core::{clock::Timestamp, json, name::Key},
    error::{Error, Result},
    grpc::proto::dynarust::v1::{Entry, Value, value::Kind},
    http::request::value::take_value,
};

/// What a JSON string begins with that stands for bytes: a data URL (RFC 2397).
const BYTES: &str = "\"data:application/octet-stream;base64,";

/// A value of a message, with at most `limit` bytes of JSON text.
///
/// # Errors
/// `MissingValue`; `BadJson`; `TooLarge`.
pub fn parse(value: Option<Value>, limit: u64) -> Result<json::Value> {
    match value.and_then(|value| value.kind).ok_or(Error::MissingValue)? {
        Kind::Json(text) => {
            let raw: &RawValue = serde_json::from_str(&text)
                .map_err(|error| Error::BadJson(format!("value.json: {error}")))?;
            take_value(limit, raw)
        }
        Kind::Bytes(bytes) => {
            let length = BYTES.len() + bytes.len().div_ceil(3) * 4 + 1;
            if length as u64 > limit {
                return Err(Error::TooLarge { what: "value", limit });
            }
            let mut text = String::with_capacity(length);
            text.push_str(BYTES);
            STANDARD.encode_string(bytes, &mut text);
            text.push('"');
            Ok(json::Value::trusted(text))
        }
    }
}

/// A value as a message.
pub fn render(value: &json::Value) -> Value {
    let kind = bytes_of(value.as_str()).map_or_else(|| Kind::Json(value.as_str().to_owned()), Kind::Bytes);
    Value { kind: Some(kind) }
}

/// The bytes that a JSON text stands for, if it does.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.strip_prefix(BYTES)?.strip_suffix('"')?).ok()
}

/// A row as a message; `value` is `None` for a listing of keys.
pub fn entry(
    key: &Key,
    value: Option<&json::Value>,
    timestamp: Timestamp,
    expires_at_ms: Option<u64>,
) -> Entry {
    Entry {
        key: key.as_str().to_owned(),
        value: value.map(render),
        version: timestamp.to_string(),
        timestamp_ms: timestamp.unix_ms(),
        expires_at_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kind: Kind) -> Option<Value> {
        Some(Value { kind: Some(kind) })
    }

    #[test]
    fn bytes_come_back_as_bytes_and_text_as_the_text_that_was_sent() {
        for bytes in [&b""[..], b"\0", b"ab", b"\xff\xfe\xfd", &[7; 1000]] {
            let kept = parse(value(Kind::Bytes(bytes.to_vec())), 2000).expect("bytes");
            assert!(kept.is_valid(), "{}", kept.as_str());
            assert_eq!(Some(render(&kept)), value(Kind::Bytes(bytes.to_vec())));
        }
        for text in [r#"{"b":1.10,"a":[]}"#, "null", r#""data:text/plain,x""#, "\"\u{e9}\""] {
            let kept = parse(value(Kind::Json(text.into())), 2000).expect("json");
            assert_eq!(Some(render(&kept)), value(Kind::Json(text.into())));
        }
    }

    /// A string of somebody else may look like bytes.
    #[test]
    fn only_a_whole_canonical_data_url_stands_for_bytes() {
        for text in
            ["\"data:application/octet-stream;base64,YQ\"", "\"data:application/octet-stream;base64,Y*==\""]
        {
            let kept = parse(value(Kind::Json(text.into())), 2000).expect("json");
            assert_eq!(Some(render(&kept)), value(Kind::Json(text.into())), "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        assert_eq!(parse(None, 10), Err(Error::MissingValue));
        assert_eq!(parse(Some(Value { kind: None }), 10), Err(Error::MissingValue));
        for text in ["", "{", "1 2", "{\"a\":1,}", "nul", "\"\\ud800\""] {
            let refused = parse(value(Kind::Json(text.into())), 100);
            assert!(matches!(refused, Err(Error::BadJson(_))), "{text}: {refused:?}");
        }
        let too_large = Err(Error::TooLarge { what: "value", limit: 50 });
        assert_eq!(parse(value(Kind::Json(format!("\"{}\"", "x".repeat(49)))), 50), too_large);
        assert_eq!(parse(value(Kind::Bytes(vec![0; 10])), 50), too_large);
        assert!(parse(value(Kind::Bytes(vec![0; 6])), 50).is_ok());
    }
}
