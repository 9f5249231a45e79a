//! One HTTP request as its handler sees it, and the modules that parse its parts. The head is moved here once, before warp sees the
//! request, and shared by reference from then on: a filter that needs a header clones a pointer and not a map.

pub mod accepts;
pub mod address_limits;
pub mod body;
pub mod budget;
pub mod coding;
pub mod condition;
pub mod connection_state;
pub mod consistency;
pub mod expiry;
pub mod hand_over;
pub mod latencies;
pub mod path;
pub mod permission;
pub mod rate_limit;
pub mod route;
pub mod strict;
pub mod traffic;
pub mod transaction;
pub mod upgrade;
pub mod value;

use std::{
    borrow::Cow,
    fmt,
    net::SocketAddr,
    ops::Deref,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use hyper::{
    HeaderMap, Method, Request, Uri, Version,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    upgrade::OnUpgrade,
};

use self::connection_state::ConnectionState;
use crate::{
    error::{Error, Result},
    http::{access::Principal, request::route::Route},
};

/// The header that carries a request's id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id accepted from a client. Every response and log line repeats it.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// A request: its head, its body until somebody takes it, and its connection. Clones share one request.
#[derive(Clone, Debug)]
pub struct Call(Arc<Head>);

/// The request without its body.
pub struct Head {
    /// The method.
    pub method: Method,
    /// The target as sent.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The protocol version.
    pub version: Version,
    /// The client's address.
    pub remote: SocketAddr,
    /// The id that every response to this request carries.
    pub request_id: HeaderValue,
    /// The connection it came on, with the server's limits.
    pub connection: Arc<ConnectionState>,
    route: OnceLock<Route>,
    principal: OnceLock<Principal>,
    body: Mutex<Option<Incoming>>,
    can_upgrade: bool,
}

impl Deref for Call {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.0
    }
}

impl Call {
    /// Moves the head and the body out of `request`; returns its extensions too.
    pub fn take(
        request: Request<Incoming>,
        connection: &Arc<ConnectionState>,
    ) -> (Self, hyper::http::Extensions) {
        let (mut head, body) = request.into_parts();
        let can_upgrade = head.extensions.remove::<OnUpgrade>().is_some();
        let request_id = request_id_of(&head.headers);
        let call = Self(Arc::new(Head {
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            version: head.version,
            remote: connection.remote,
            request_id,
            connection: Arc::clone(connection),
            route: OnceLock::new(),
            principal: OnceLock::new(),
            body: Mutex::new(Some(body)),
            can_upgrade,
        }));
        (call, head.extensions)
    }

    /// A call without a body, for tests that read heads.
    #[cfg(test)]
    pub fn of(request: Request<()>) -> Self {
        let (head, ()) = request.into_parts();
        let options = Arc::new(super::Options::default());
        let budget = self::budget::Budget::new(options.body_memory_bytes, Default::default());
        let connection = Arc::new(ConnectionState::new(
            SocketAddr::from(([127, 0, 0, 1], 1)),
            options,
            budget,
            &Arc::default(),
            None,
        ));
        Self(Arc::new(Head {
            request_id: request_id_of(&head.headers),
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            version: head.version,
            remote: connection.remote,
            connection,
            route: OnceLock::new(),
            principal: OnceLock::new(),
            body: Mutex::new(None),
            can_upgrade: false,
        }))
    }
}

impl Head {
    /// The path, still percent-encoded.
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The query parameters.
    pub fn query(&self) -> Query<'_> {
        Query(self.uri.query().unwrap_or_default())
    }

    /// The text of a header; `None` if it is absent or not text.
    pub fn header(&self, name: impl hyper::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The route that took this request; `Route::Unknown` until one does.
    pub fn route(&self) -> Route {
        self.route.get().copied().unwrap_or(Route::Unknown)
    }

    /// Records the route that takes this request, for the metrics and the log. The first one stays.
    pub fn routed(&self, route: Route) {
        self.route.get_or_init(|| route);
    }

    /// Who sends it. Nobody until the check of its operation.
    pub fn principal(&self) -> &Principal {
        self.principal.get().unwrap_or(&Principal::Nobody)
    }

    /// Records who sends it. The first one stays.
    pub fn sent_by(&self, principal: Principal) {
        self.principal.get_or_init(|| principal);
    }

    /// Whether the head announces a body that is not empty.
    pub fn has_body(&self) -> bool {
        let length = self.header(header::CONTENT_LENGTH);
        length.is_some_and(|length| length != "0") || self.headers.contains_key(header::TRANSFER_ENCODING)
    }

    /// The body, once; later calls return `None`.
    pub fn take_body(&self) -> Option<Incoming> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the client offers to go on with another protocol, and the connection can.
    pub fn can_upgrade(&self) -> bool {
        self.can_upgrade
    }

    /// Whether the connection can be taken from hyper once the head of the response is written: nothing of the request is left on it then.
    pub fn can_hand_over(&self) -> bool {
        self.version == Version::HTTP_11 && !self.has_body()
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the query, where a token may be.
        write!(f, "{} {} from {}", self.method, self.path(), self.remote)
    }
}

/// Query parameters, decoded as forms are: `+` is a space.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a>(pub(super) &'a str);

impl<'a> Query<'a> {
    /// The value of a parameter; empty if it has no `=`.
    ///
    /// # Errors
    /// `BadRequest` if the query does not decode, or has the parameter twice.
    pub fn get(&self, name: &str) -> Result<Option<Cow<'a, str>>> {
        let mut values = self.all(name)?;
        if values.len() > 1 {
            return Err(Error::BadRequest(format!(
                "the parameter {name:?} occurs more than once in the query"
            )));
        }
        Ok(values.pop())
    }

    /// All values of a repeatable parameter, in order.
    ///
    /// # Errors
    /// `BadRequest` if the query does not decode.
    pub fn all(&self, name: &str) -> Result<Vec<Cow<'a, str>>> {
        // `parse` replaces what does not decode.
        path::decode(self.0).map_err(|why| Error::BadRequest(format!("the query is not text: {why}")))?;
        let pairs = form_urlencoded::parse(self.0.as_bytes()).filter(|(found, _)| found == name);
        Ok(pairs.map(|(_, value)| value).collect())
    }

    /// A flag: absent or `false` is off; `true`, or the bare name, is on.
    ///
    /// # Errors
    /// `BadRequest` for anything else.
    pub fn flag(&self, name: &str) -> Result<bool> {
        Ok(self.switch(name)?.unwrap_or(false))
    }

    /// As `flag`, but `None` if absent.
    ///
    /// # Errors
    /// As `flag`.
    pub fn switch(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name)?.as_deref() {
            None => Ok(None),
            Some("false" | "0") => Ok(Some(false)),
            Some("" | "true" | "1") => Ok(Some(true)),
            Some(other) => Err(Error::BadRequest(format!("{name}={other}: use true or false"))),
        }
    }
}

/// The client's id if it sent one that is short, visible text; otherwise the next of our own.
pub fn request_id_of(headers: &HeaderMap) -> HeaderValue {
    headers
        .get(REQUEST_ID)
        .filter(|id| {
            (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
        })
        .cloned()
        .unwrap_or_else(next_request_id)
}

/// A prefix that is random to this process, plus a counter: unique without asking for randomness each time.
pub fn next_request_id() -> HeaderValue {
    static PREFIX: OnceLock<u64> = OnceLock::new();
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    // Without randomness ids are still unique within this process, which is enough to find a log line.
    let prefix = PREFIX.get_or_init(|| u64::from(getrandom::u32().unwrap_or_default()) << 32);
    let id = prefix | (COUNTER.fetch_add(1, Ordering::Relaxed) & u64::from(u32::MAX));
    let mut text = [0u8; 16];
    write_hex(id, &mut text);
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are a header value")
}

/// Writes `number` as sixteen hexadecimal digits, as `Timestamp` and `NodeId` display it, without the cost of formatting.
pub fn write_hex(number: u64, digits: &mut [u8]) {
    assert_eq!(digits.len(), 16);
    for (place, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * place)) as usize & 0xf];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_decode_as_forms_do() {
        let query = Query("prefix=a%2Fb+c&flag&empty=&k=%C3%A9&bare=true");
        let get = |name| query.get(name).expect("decodes").map(Cow::into_owned);
        assert_eq!(get("prefix").as_deref(), Some("a/b c"));
        assert_eq!(get("empty").as_deref(), Some(""));
        assert_eq!(get("k").as_deref(), Some("é"));
        assert_eq!(get("absent"), None);
        assert!(query.flag("flag").expect("on") && query.flag("bare").expect("on"));
        assert!(!query.flag("absent").expect("off"));
        assert!(matches!(query.flag("prefix"), Err(Error::BadRequest(_))));
    }

    #[test]
    fn invalid_or_repeated_parameters_are_refused() {
        for query in ["a=%", "a=%2", "a=%zz", "a=%FF", "a=1&a=2"] {
            assert!(matches!(Query(query).get("a"), Err(Error::BadRequest(_))), "{query}");
        }
        assert_eq!(Query("a=1&b=2&a=3").all("a").expect("decodes"), ["1", "3"]);
    }

    #[test]
    fn a_clients_request_id_is_used_if_it_is_short_visible_text() {
        let with = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(id).expect("a header value"));
            request_id_of(&headers)
        };
        assert_eq!(with("mine-1"), "mine-1");
        for refused in ["", "two words", &"x".repeat(REQUEST_ID_BYTES_MAX + 1)] {
            assert_eq!(with(refused).len(), 16, "{refused}");
        }
        assert_ne!(request_id_of(&HeaderMap::new()), request_id_of(&HeaderMap::new()));
    }
}
