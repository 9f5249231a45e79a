//! Request bodies: read, decoded, and held to limits of size, idle time, rate and memory. We read them ourselves, because warp takes
//! neither chunked bodies nor the form type that curl declares. The declared type matters only to tell the two kinds of patch apart:
//! browsers call JSON text/plain, curl calls it a form, and `server::guard` keeps foreign pages out.

use std::{fmt, marker::PhantomData, mem, ops::Deref, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Incoming},
    header,
};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use tokio::{
    task::yield_now,
    time::{Instant, timeout},
};

use super::{
    Head,
    budget::{Budget, Reservation},
    coding::{Coding, Decoder},
    permission, strict,
};
use crate::{
    core::json::{DEPTH_MAX, scan},
    error::{Error, Result},
    http::Options,
    node::run_aside,
};

/// What a body may have around its value: member names, a key, white space.
pub const ENVELOPE_BYTES_MAX: u64 = 16 * 1024;
/// U+FEFF in UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";
/// A body at least this long takes a millisecond or more to parse.
const LONG_BYTES_MIN: usize = 256 * 1024;
/// How long a body may come in below the minimum rate.
pub const BODY_GRACE: Duration = Duration::from_secs(10);

/// The declared type of a patch. The type of other bodies is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 7396.
    Merge,
    /// RFC 6902.
    Json,
    /// Neither.
    Undeclared,
}

/// The declared type of a call's body, if it is a patch.
pub fn patch_type(head: &Head) -> PatchType {
    let declared = head.header(header::CONTENT_TYPE).unwrap_or_default();
    match declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/merge-patch+json" => PatchType::Merge,
        "application/json-patch+json" => PatchType::Json,
        _ => PatchType::Undeclared,
    }
}

/// Calls `parse` for a body of so many bytes. If it is long, another thread serves the other requests of this one meanwhile.
pub fn parse_aside<T>(bytes: usize, parse: impl FnOnce() -> T) -> T {
    if bytes >= LONG_BYTES_MIN { run_aside(parse) } else { parse() }
}

/// Parses a JSON object. By itself, serde also takes an array of members in declaration order.
///
/// # Errors
/// `BadJson`, with place and reason; `BadRequest` for a member that `T` does not know, if `T` denies unknown fields.
pub fn parse_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T> {
    let text = without_bom(text).trim_ascii();
    if text.starts_with(b"[") {
        return Err(Error::BadJson("expected an object, found an array".into()));
    }
    check_depth(text)?;
    serde_json::from_slice(text)
        .map_err(|error| strict::explain::<T>(std::str::from_utf8(text).unwrap_or_default(), &error))
}

/// `text` without the byte order mark that some editors and libraries put before UTF-8.
pub fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(BOM).unwrap_or(text)
}

/// Calls `each` with the items of a JSON array, one by one, and keeps none. Stops at the first error.
///
/// # Errors
/// `BadJson` if it is not an array, and what `each` returns.
pub fn for_each_item<'a, T: Deserialize<'a>>(
    text: &'a [u8],
    each: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    struct Items<'e, E, T>(E, &'e mut Result<()>, PhantomData<T>);
    impl<'de, E: FnMut(T) -> Result<()>, T: Deserialize<'de>> Visitor<'de> for Items<'_, E, T> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> std::result::Result<(), A::Error> {
            while let Some(item) = items.next_element()? {
                *self.1 = (self.0)(item);
                if self.1.is_err() {
                    return Err(serde::de::Error::custom("stopped by the caller"));
                }
            }
            Ok(())
        }
    }
    let mut stopped = Ok(());
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let read = deserializer.deserialize_seq(Items(each, &mut stopped, PhantomData));
    let read = read.and_then(|()| deserializer.end());
    stopped?;
    read.map_err(|error| Error::BadJson(error.to_string()))
}

/// Refuses JSON that nests deeper than a value in its envelope may, even in unknown members.
fn check_depth(text: &[u8]) -> Result<()> {
    scan::scan(text, DEPTH_MAX + 1, |_| {})
}

/// A request body as it arrives, decoded.
pub struct BodyReader {
    body: Option<Incoming>,
    decoder: Option<(Decoder, Reservation)>,
    /// Whether it gave decoded bytes since it last waited.
    has_decoded: bool,
    options: Arc<Options>,
    budget: Arc<Budget>,
    pace: Pace,
}

/// How fast a body arrives. Only the time spent waiting for the client counts.
#[derive(Debug, Default)]
pub struct Pace {
    /// How long we waited for what has arrived so far, and how many bytes that is.
    waited: Duration,
    received_bytes: u64,
}

impl Pace {
    /// Counts bytes that arrived after waiting for so long.
    ///
    /// # Errors
    /// `RequestTimeout` if the client sends too slowly.
    pub fn received(&mut self, bytes: usize, waited: Duration, options: &Options) -> Result<()> {
        self.waited += waited;
        self.received_bytes += bytes as u64;
        let grace = BODY_GRACE.min(options.body_timeout);
        let least = options.body_rate_min as f64 * self.waited.as_secs_f64();
        if self.waited <= grace || self.received_bytes as f64 >= least {
            return Ok(());
        }
        Err(Error::RequestTimeout(format!(
            "the body arrives at less than {} bytes a second (--min-body-rate)",
            options.body_rate_min
        )))
    }
}

impl BodyReader {
    /// Takes the body of a call, once.
    ///
    /// # Errors
    /// `UnsupportedType` for an unsupported encoding, `Overloaded` if there is no memory to decode it.
    pub fn take(head: &Head) -> Result<Self> {
        let budget = Arc::clone(&head.connection.budget);
        let decoder = match Coding::of_body(head)? {
            Some(coding) => Some((Decoder::new(coding)?, budget.reserve(coding.decoder_bytes())?)),
            None => None,
        };
        let options = Arc::clone(&head.connection.options);
        let body = head.take_body();
        Ok(Self { body, decoder, has_decoded: false, options, budget, pace: Pace::default() })
    }

    /// The declared length, before decoding.
    pub fn declared_bytes(&self) -> Option<u64> {
        self.body.as_ref().and_then(|body| body.size_hint().exact())
    }

    /// Whether the body is not encoded.
    pub fn is_plain(&self) -> bool {
        self.decoder.is_none()
    }

    /// The next bytes, decoded; `None` at the end.
    ///
    /// # Errors
    /// `RequestTimeout` if the client pauses too long or sends too slowly; `BadRequest` if the connection breaks, or the framing or the
    /// encoding is wrong.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some((decoder, _)) = &mut self.decoder
                && let Some(bytes) = decoder.read()?
            {
                // A few kilobytes can stand for gigabytes, and nobody else would be served before their end.
                if mem::replace(&mut self.has_decoded, true) {
                    yield_now().await;
                }
                return Ok(Some(bytes).filter(|bytes| !bytes.is_empty()));
            }
            let received = self.receive().await?;
            self.has_decoded = false;
            match &mut self.decoder {
                Some((decoder, _)) => decoder.feed(received),
                None => return Ok(received),
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<Bytes>> {
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            let begun = Instant::now();
            let frame = timeout(self.options.body_timeout, body.frame()).await.map_err(|_| {
                let seconds = self.options.body_timeout.as_secs_f64();
                Error::RequestTimeout(format!("no part of the body arrived for {seconds} s"))
            })?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| Error::BadRequest(format!("the body broke off: {error}")))?;
            // Skip trailers: they mean nothing here.
            if let Ok(bytes) = frame.into_data() {
                self.pace.received(bytes.len(), begun.elapsed(), &self.options)?;
                return Ok(Some(bytes));
            }
        }
    }
}

/// A complete body, and its memory reservation.
pub struct FullBody {
    bytes: Bytes,
    reservation: Reservation,
}

impl FullBody {
    /// The body's memory reservation. Callers grow it for what they build from the body.
    pub fn reservation(&mut self) -> &mut Reservation {
        &mut self.reservation
    }

    /// The bytes, without the reservation.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl Deref for FullBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a whole body. Refuses a declared length beyond the limit before it reads anything. The client's token must stay valid until the
/// body is there: the request begins only then, however slowly the client sends.
///
/// # Errors
/// `TooLarge` for more than `bytes_max` after decoding; `Overloaded` if the memory for bodies is used up; `Unauthenticated` if the token
/// ended meanwhile; and the errors of `BodyReader::next`.
pub async fn read(head: &Head, bytes_max: u64) -> Result<FullBody> {
    let mut lease = permission::held_lease(head)?;
    let body = tokio::select! {
        body = read_whole(head, bytes_max) => body?,
        ended = lease.ended() => return Err(ended),
    };
    lease.check()?;
    Ok(body)
}

async fn read_whole(head: &Head, bytes_max: u64) -> Result<FullBody> {
    let too_large = Error::TooLarge { what: "body", limit: bytes_max };
    let mut reader = BodyReader::take(head)?;
    let declared = reader.declared_bytes().filter(|_| reader.is_plain());
    if declared.is_some_and(|length| length > bytes_max) {
        return Err(too_large);
    }
    let mut reservation = reader.budget.empty_reservation();
    let Some(first) = reader.next().await? else { return Ok(FullBody { bytes: Bytes::new(), reservation }) };
    reservation.reserve_at_least(first.len())?;
    let mut whole = None::<BytesMut>;
    let mut length = first.len() as u64;
    while length <= bytes_max {
        let Some(more) = reader.next().await? else {
            // Most bodies come in one piece and are not copied.
            return Ok(FullBody { bytes: whole.map_or(first, BytesMut::freeze), reservation });
        };
        length += more.len() as u64;
        let whole = whole.get_or_insert_with(|| BytesMut::from(&first[..]));
        let needed = whole.len() + more.len();
        if needed > whole.capacity() {
            let capacity = needed.max(whole.capacity() + whole.capacity() / 2);
            // Reserve before allocating. Do not reserve a length that is only declared: declaring costs a client nothing.
            let capacity = declared.map_or(capacity, |declared| capacity.min(needed.max(declared as usize)));
            reservation.reserve_at_least(capacity)?;
            whole.reserve(capacity - whole.len());
        }
        whole.extend_from_slice(&more);
    }
    Err(too_large)
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;
    use crate::http::request::{Call, coding::Encoder};

    #[test]
    fn only_the_two_patch_types_are_told_apart() {
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

    /// Whether a task of a runtime with one thread runs while this thread parses a body of so many bytes.
    async fn others_are_served(bytes: usize) -> bool {
        tokio::spawn(async move {
            parse_aside(bytes, || {
                let (sender, served) = std::sync::mpsc::channel();
                tokio::spawn(async move { sender.send(()) });
                served.recv_timeout(Duration::from_millis(if bytes < LONG_BYTES_MIN { 200 } else { 20_000 }))
            })
            .is_ok()
        })
        .await
        .expect("no panic")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn while_a_long_body_is_parsed_other_requests_are_served() {
        assert!(others_are_served(LONG_BYTES_MIN).await);
        assert!(!others_are_served(LONG_BYTES_MIN - 1).await, "or this shows nothing");
    }

    /// Some kilobytes decode for a minute, in which this thread served nobody else.
    #[tokio::test]
    async fn others_are_served_between_the_pieces_that_a_body_decodes_to() {
        let mut encoder = Encoder::new(Coding::Zstd).expect("begins");
        let mut coded = encoder.write(&vec![b'\n'; 1 << 20]).expect("codes");
        coded.extend(encoder.finish().expect("ends"));
        let mut decoder = Decoder::new(Coding::Zstd).expect("begins");
        decoder.feed(Some(coded.into()));
        let options = Arc::new(Options::default());
        let budget = Budget::new(options.body_memory_bytes, Default::default());
        let decoder = Some((decoder, budget.empty_reservation()));
        let pace = Pace::default();
        let mut reader = BodyReader { body: None, decoder, has_decoded: false, options, budget, pace };
        let other = tokio::spawn(async {});
        let mut pieces = 0;
        while !other.is_finished() {
            assert!(reader.next().await.expect("decodes").is_some(), "nobody was served in {pieces} pieces");
            pieces += 1;
        }
        assert!((1..=2).contains(&pieces), "{pieces}");
    }

    #[test]
    fn an_array_is_not_an_object() {
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
    fn nesting_is_limited_in_unknown_members_too() {
        let nested = |depth: usize| format!("{{\"other\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check_depth(nested(DEPTH_MAX).as_bytes()), Ok(()));
        assert!(check_depth(nested(DEPTH_MAX + 1).as_bytes()).is_err());
        let text = format!(r#"{{"text":"\"{}\\"}}"#, "[".repeat(1000));
        assert_eq!(check_depth(text.as_bytes()), Ok(()));
    }

    #[test]
    fn a_body_is_refused_once_it_was_waited_for_too_long() {
        let options = Options { body_rate_min: 1000, ..Options::default() };
        let mut pace = Pace::default();
        assert_eq!(pace.received(1, BODY_GRACE, &options), Ok(()));
        assert_eq!(pace.received(20_000, BODY_GRACE, &options), Ok(()));
        let slow = pace.received(0, BODY_GRACE, &options);
        assert!(matches!(&slow, Err(Error::RequestTimeout(why)) if why.contains("1000")), "{slow:?}");
    }
}
