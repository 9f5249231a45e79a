//! Bodies: their bytes, within a limit of size and a limit of silence. Read by us and not by warp, which takes neither chunked
//! bodies nor the form type that curl declares. What they are declared to be decides nothing, but between two kinds of patch:
//! browsers call JSON text/plain, curl calls it a form, and against foreign pages there is `guard`.

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

/// What a patch is declared to be. Of other bodies nothing is asked: the bytes decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 7396.
    Merge,
    /// RFC 6902.
    Json,
    /// Neither of them.
    Undeclared,
}

/// What a call's body is declared to be, if it is a patch.
pub fn patch_type(head: &Head) -> PatchType {
    let declared = head.header(header::CONTENT_TYPE).unwrap_or_default();
    match declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/merge-patch+json" => PatchType::Merge,
        "application/json-patch+json" => PatchType::Json,
        _ => PatchType::Undeclared,
    }
}

/// Refuses a body that is not sent as it is.
///
/// # Errors
/// `UnsupportedType` with the coding.
pub fn expect_plain(head: &Head) -> Result<()> {
    match head.headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        None => Ok(()),
        Some(coding) => {
            let coding = String::from_utf8_lossy(coding.as_bytes());
            Err(Error::UnsupportedType(format!("the body is encoded as {coding:?}: send it plain")))
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

    #[test]
    fn only_the_two_types_of_patches_mean_anything() {
        let declared = |content_type: &str| {
            let request = Request::patch("/").header(header::CONTENT_TYPE, content_type).body(());
            patch_type(&Call::of(request.expect("a request")))
        };
        assert_eq!(declared("application/merge-patch+json"), PatchType::Merge);
        assert_eq!(declared("Application/JSON-Patch+JSON ; charset=utf-8"), PatchType::Json);
        for other in
            ["application/json", "application/x-www-form-urlencoded", "text/plain;charset=UTF-8", "", "x"]
        {
            assert_eq!(declared(other), PatchType::Undeclared, "{other}");
        }
        assert_eq!(
            patch_type(&Call::of(Request::patch("/").body(()).expect("a request"))),
            PatchType::Undeclared
        );
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
    fn other_encodings_are_refused() {
        let encoded = |coding: &str| {
            let request = Request::post("/").header(header::CONTENT_ENCODING, coding).body(());
            expect_plain(&Call::of(request.expect("a request")))
        };
        assert_eq!(encoded("identity"), Ok(()));
        assert!(matches!(encoded("br"), Err(Error::UnsupportedType(why)) if why.contains("br")));
    }
}
