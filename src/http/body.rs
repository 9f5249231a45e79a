//! Bodies: what they are declared to be, and their bytes, within a limit of size and a limit of silence. Read by us and not
//! by warp, which takes neither chunked bodies nor the form type that curl declares.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Incoming},
    header,
};
use serde::Deserialize;
use tokio::time::timeout;

use super::{call::Head, strict};
use crate::{
    core::json::DEPTH_MAX,
    error::{Error, Result},
};

/// What a body may have around the value it carries: member names, a key, white space.
pub const ENVELOPE_BYTES_MAX: u64 = 16 * 1024;
/// U+FEFF in UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";
/// Longest content type quoted back.
const QUOTED_CHARS_MAX: usize = 80;

/// What a body is declared to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// JSON. Also what declares nothing, and curl's default for `-d`, the form type: the bytes decide.
    Json,
    /// RFC 7396.
    MergePatch,
    /// RFC 6902.
    JsonPatch,
    /// One JSON text per line.
    Ndjson,
}

/// The declared type of a call's body, if it is one of `accepted`.
///
/// # Errors
/// `UnsupportedType`, with what is accepted.
pub fn media_type(head: &Head, accepted: &[MediaType]) -> Result<MediaType> {
    if let Some(coding) = head.headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let coding = String::from_utf8_lossy(coding.as_bytes());
        return Err(Error::UnsupportedType(format!("the body is encoded as {coding:?}: send it plain")));
    }
    let Some(declared) = head.headers.get(header::CONTENT_TYPE) else { return Ok(MediaType::Json) };
    let text = String::from_utf8_lossy(declared.as_bytes());
    parse_media_type(&text).filter(|declared| accepted.contains(declared)).ok_or_else(|| {
        let quoted: String = text.chars().take(QUOTED_CHARS_MAX).collect();
        let names: Vec<_> = accepted.iter().map(|one| one.name()).collect();
        Error::UnsupportedType(format!("the body is declared as {quoted:?}; this takes {}", names.join(", ")))
    })
}

fn parse_media_type(text: &str) -> Option<MediaType> {
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" | "application/x-www-form-urlencoded" => Some(MediaType::Json),
        "application/merge-patch+json" => Some(MediaType::MergePatch),
        "application/json-patch+json" => Some(MediaType::JsonPatch),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(MediaType::Ndjson),
        _ => None,
    }
}

impl MediaType {
    fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MergePatch => "application/merge-patch+json",
            Self::JsonPatch => "application/json-patch+json",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// The members of a JSON object. Serde by itself also takes an array for them, in the order of their declaration.
///
/// # Errors
/// `BadJson`, with where and why; `BadRequest` for a member that `T` does not know, where `T` denies those.
pub fn parse_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T> {
    let text = without_bom(text).trim_ascii();
    if text.starts_with(b"[") {
        return Err(Error::BadJson("an array where an object is expected".into()));
    }
    check_depth(text)?;
    serde_json::from_slice(text)
        .map_err(|error| strict::explain::<T>(std::str::from_utf8(text).unwrap_or_default(), &error))
}

/// Text without the byte order mark that some editors and libraries put before UTF-8. It is no part of the text.
pub fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(BOM).unwrap_or(text)
}

/// Refuses what nests deeper than a value in its envelope may, also in members that nobody reads.
fn check_depth(text: &[u8]) -> Result<()> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX + 1 {
            return Err(Error::BadJson(format!("nested deeper than {DEPTH_MAX}")));
        }
    }
    Ok(())
}

/// A body as it arrives.
pub struct Upload {
    body: Option<Incoming>,
    silence_max: std::time::Duration,
}

impl Upload {
    /// Takes the body of a call, which can be done once.
    pub fn take(head: &Head) -> Self {
        Self { body: head.take_body(), silence_max: head.peer.options.body_timeout }
    }

    /// The length it was declared to have.
    pub fn declared_bytes(&self) -> Option<u64> {
        self.body.as_ref().and_then(|body| body.size_hint().exact())
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// `RequestTimeout` after a silence, `BadRequest` where the connection broke or the framing is wrong.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            let frame = timeout(self.silence_max, body.frame()).await.map_err(|_| {
                let seconds = self.silence_max.as_secs_f64();
                Error::RequestTimeout(format!("the body did not go on for {seconds} s"))
            })?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| Error::BadRequest(format!("the body broke off: {error}")))?;
            // What is no data are trailers, which mean nothing here.
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }
}

/// The whole body of a call. A declared length beyond the limit is refused before anything is read.
///
/// # Errors
/// `TooLarge` for more than `bytes_max`, and those of `Upload::next`.
pub async fn read(head: &Head, bytes_max: u64) -> Result<Bytes> {
    let too_large = Error::TooLarge { what: "body", limit: bytes_max };
    let mut upload = Upload::take(head);
    if upload.declared_bytes().is_some_and(|length| length > bytes_max) {
        return Err(too_large);
    }
    let Some(first) = upload.next().await? else { return Ok(Bytes::new()) };
    let mut whole = None::<BytesMut>;
    let mut length = first.len() as u64;
    while length <= bytes_max {
        let Some(more) = upload.next().await? else {
            // Most bodies come in one piece, and are not copied.
            return Ok(whole.map_or(first, BytesMut::freeze));
        };
        length += more.len() as u64;
        whole.get_or_insert_with(|| BytesMut::from(&first[..])).extend_from_slice(&more);
    }
    Err(too_large)
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::{super::call::Call, *};

    fn declared(content_type: &str) -> Result<MediaType> {
        let request =
            Request::post("/").header(header::CONTENT_TYPE, content_type).body(()).expect("a request");
        media_type(&Call::of(request), &[MediaType::Json, MediaType::Ndjson])
    }

    #[test]
    fn json_is_taken_however_it_is_declared() {
        for json in
            ["application/json", "Application/JSON ; charset=utf-8", "application/x-www-form-urlencoded"]
        {
            assert_eq!(declared(json), Ok(MediaType::Json), "{json}");
        }
        assert_eq!(declared("application/x-ndjson"), Ok(MediaType::Ndjson));
    }

    #[test]
    fn an_array_is_no_object() {
        #[derive(Deserialize)]
        struct One {
            one: u32,
        }
        assert_eq!(parse_object::<One>(b" {\"one\":1}\n").map(|it| it.one), Ok(1));
        assert_eq!(parse_object::<One>(b"\xef\xbb\xbf{\"one\":1}").map(|it| it.one), Ok(1));
        for wrong in [&b"[1]"[..], b" [1]", b"1", b"", b"{}", b"{\"one\":1}}", b"{\"one\":\"\xff\"}"] {
            assert!(matches!(parse_object::<One>(wrong), Err(Error::BadJson(_))), "{wrong:?}");
        }
    }

    #[test]
    fn nesting_has_a_limit_in_members_that_nobody_reads_too() {
        let nested = |depth: usize| format!("{{\"other\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check_depth(nested(DEPTH_MAX).as_bytes()), Ok(()));
        assert!(check_depth(nested(DEPTH_MAX + 1).as_bytes()).is_err());
        let text = format!(r#"{{"text":"\"{}\\"}}"#, "[".repeat(1000));
        assert_eq!(check_depth(text.as_bytes()), Ok(()));
    }

    #[test]
    fn other_types_and_encodings_are_refused() {
        for other in ["text/html", "multipart/form-data", "", "application/json-patch+json", "json"] {
            assert!(matches!(declared(other), Err(Error::UnsupportedType(_))), "{other}");
        }
        let zipped = Request::post("/").header(header::CONTENT_ENCODING, "gzip").body(()).expect("a request");
        assert!(matches!(media_type(&Call::of(zipped), &[MediaType::Json]), Err(Error::UnsupportedType(_))));
    }
}
