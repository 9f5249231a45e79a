//! Refuses requests that foreign web pages make, before routing. A browser lends its network to every page it shows: a page of any site can
//! send requests to a node on the reader's machine, and a page whose host name was made to point there (DNS rebinding) can read the
//! responses. Two checks stop both:
//!
//! - the requested host (`Host`, `:authority`) must be an IP address, `localhost`, a name that this node is known by, or one of
//!   `--allowed-host`, otherwise 421. A rebound name is none of these;
//! - the page that made the request (`Origin`, `Sec-Fetch-Site`) must be this node's own, or of an origin in `--cors-origin`, otherwise
//!   403. The origins of the other members of the cluster count as its own: the dashboard moves to another node when its own stops.
//!
//! Clients other than browsers send neither page header and pass the second check. Nodes that open a link skip the first check, because
//! they know their peers by names of their own. A browser cannot open `/_/link` without an `Origin`, and the link's handshake proves who is
//! there.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hyper::{
    HeaderMap, Method, Version,
    header::{self, HeaderName, HeaderValue},
};
use rustls::{client::verify_server_name, pki_types::ServerName, server::ParsedCertificate};

use super::{cors, tls::Certificates};
use crate::{
    error::{Error, Result},
    http::{
        Options,
        request::{Call, upgrade},
    },
    node::{LINK_PATH, Node},
};

/// How the requesting page relates to this host, according to the browser. Pages cannot set it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// Longest DNS name.
const NAME_BYTES_MAX: usize = 253;
/// Longest origin quoted in an error.
const QUOTED_CHARS_MAX: usize = 300;

/// Decides which requests are served.
pub struct Guard {
    node: Arc<Node>,
    /// In lower case; a leading `*.` stands for one label.
    allowed_hosts: Vec<String>,
    cors_origins: Vec<String>,
    /// The certificates whose names are this node's. Set if clients are served over TLS.
    certificates: Option<Certificates>,
}

impl Guard {
    /// The guard of a server with these options.
    pub fn new(node: Arc<Node>, options: &Options) -> Self {
        Self {
            node,
            allowed_hosts: options.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            cors_origins: options.cors_origins.clone(),
            certificates: options.tls.clone(),
        }
    }

    /// Checks a request by its headers.
    ///
    /// # Errors
    /// `BadRequest` if it names no host, or several; `Misdirected` if the host is not this node; `Forbidden` if a page of another site made
    /// it.
    pub fn admit(&self, call: &Call, head: &GuardHeaders<'_>) -> Result<()> {
        let requested = head.requested_host(call)?;
        let has_page = head.origin.is_some() || head.site.is_some();
        // Most requests of a connection name the same host as the first.
        if !has_page && requested.is_some_and(|host| call.connection.is_confirmed_host(host)) {
            return Ok(());
        }
        let host = requested.map(Host::parse_bytes).transpose()?;
        let is_link = call.path() == LINK_PATH && head.origin.is_none() && upgrade::is_requested(call);
        if let Some(host) = host.filter(|_| !is_link) {
            self.admit_host(host)?;
            requested.into_iter().for_each(|requested| call.connection.confirm_host(requested));
        }
        self.admit_page(call, head, host)
    }

    fn admit_host(&self, host: Host<'_>) -> Result<()> {
        if self.is_known(host.name) {
            return Ok(());
        }
        let name = host.name;
        Err(Error::Misdirected(format!(
            "this node is not known as {name:?}, the host of this request, and answers only under its own names, because a page of \
             another site could use any other. To let clients use this name, start the node with --allowed-host {name}"
        )))
    }

    fn is_allowed(&self, name: &str) -> bool {
        self.allowed_hosts.iter().any(|pattern| matches_name(pattern, name))
    }

    fn is_certified(&self, name: &str) -> bool {
        let Some(certificate) = self.certificates.as_ref().map(Certificates::own) else { return false };
        let parsed = ParsedCertificate::try_from(&certificate);
        let name = ServerName::try_from(name);
        parsed.is_ok_and(|parsed| name.is_ok_and(|name| verify_server_name(&parsed, &name).is_ok()))
    }

    /// Checks the page, if there is one. `host` is the requested host.
    fn admit_page(&self, call: &Call, head: &GuardHeaders<'_>, host: Option<Host<'_>>) -> Result<()> {
        let is_cross_site = head.site.is_some_and(|site| site == "cross-site");
        let Some(origin) = head.origin else {
            return match is_cross_site && !is_navigation(&call.headers, &call.method) {
                false => Ok(()),
                true => Err(Error::Forbidden(
                    "a page of another site made this request: to let pages use this node by fetch, EventSource and WebSocket, start it \
                     with --cors-origin and their origin"
                        .into(),
                )),
            };
        };
        let is_single = head.origins == 1;
        let is_own = |host: Host<'_>| self.is_own(origin, host, head.site);
        let is_own = || !is_cross_site && host.is_some_and(is_own);
        // The members last: they have to be looked up.
        if is_single
            && (cors::is_allowed(&self.cors_origins, origin) || is_own() || self.is_of_member(origin))
        {
            return Ok(());
        }
        Err(foreign_origin(origin))
    }

    /// Whether `origin` is this node's own. Equality of `Origin` and `Host` alone is never enough: a rebound name is in both.
    fn is_own(&self, origin: &HeaderValue, host: Host<'_>, site: Option<&HeaderValue>) -> bool {
        let Some((scheme, page)) = parse_origin(origin) else { return false };
        let own_scheme = if self.certificates.is_some() { "https" } else { "http" };
        let is_same = scheme == own_scheme
            && page.name.eq_ignore_ascii_case(host.name)
            && page.port_of(scheme) == host.port_of(own_scheme);
        // Behind a TLS proxy the page's scheme differs, and the host may. The browser has compared both.
        let is_same_origin_by_proxy =
            || site.is_some_and(|site| site == "same-origin") && self.is_known(page.name);
        is_same || is_same_origin_by_proxy()
    }

    /// Whether pages of `origin` come from a member of this cluster: they may use this node, so that the dashboard can move here.
    pub fn is_of_member(&self, origin: &HeaderValue) -> bool {
        let own_scheme = if self.certificates.is_some() { "https" } else { "http" };
        let Some((_, page)) = parse_origin(origin).filter(|(scheme, _)| *scheme == own_scheme) else {
            return false;
        };
        self.node.has_member_at(|address| {
            let member = Host::parse(address);
            member.is_some_and(|member| member.is_same(page, own_scheme))
        })
    }

    fn is_known(&self, name: &str) -> bool {
        is_local(name) || self.is_allowed(name) || self.node.is_reached_as(name) || self.is_certified(name)
    }
}

/// The headers that the guard needs. We find them in one pass, because each header lookup costs more than a pass.
#[derive(Default)]
pub struct GuardHeaders<'a> {
    host: Option<&'a HeaderValue>,
    hosts: usize,
    origin: Option<&'a HeaderValue>,
    origins: usize,
    site: Option<&'a HeaderValue>,
    /// Whether there is a `Connection` header.
    pub connection: bool,
}

impl<'a> GuardHeaders<'a> {
    /// Collects them from `headers`.
    pub fn of(headers: &'a HeaderMap) -> Self {
        let mut head = Self::default();
        for (name, value) in headers {
            if *name == header::HOST {
                (head.host, head.hosts) = (head.host.or(Some(value)), head.hosts + 1);
            } else if *name == header::ORIGIN {
                (head.origin, head.origins) = (head.origin.or(Some(value)), head.origins + 1);
            } else if *name == header::CONNECTION {
                head.connection = true;
            } else if *name == SEC_FETCH_SITE {
                head.site = Some(value);
            }
        }
        head
    }

    /// The requested host. `None` if there is none, which HTTP/1.0 allows; no browser speaks that.
    fn requested_host(&self, call: &'a Call) -> Result<Option<&'a [u8]>> {
        if self.hosts > 1 {
            return Err(Error::BadRequest("there is more than one Host header: send one".into()));
        }
        let header = self.host.map(HeaderValue::as_bytes);
        let target = call.uri.authority().map(|authority| authority.as_str().as_bytes());
        match (target, header) {
            (Some(target), Some(header)) if !target.eq_ignore_ascii_case(header) => {
                Err(Error::BadRequest("the request target and the Host header name different hosts".into()))
            }
            (None, None) if call.version < Version::HTTP_11 => Ok(None),
            (None, None) => {
                Err(Error::BadRequest("there is no Host header: send one, such as Host: localhost".into()))
            }
            (Some(_), None) if call.version == Version::HTTP_11 => Err(Error::BadRequest(
                "there is no Host header: send one, even with a full URL as the target".into(),
            )),
            (_, Some(host)) | (Some(host), None) => Ok(Some(host)),
        }
    }
}

/// A host as named by a request or an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Host<'a> {
    /// A name without its trailing dot, or an IP address; IPv6 in brackets.
    name: &'a str,
    port: Option<u16>,
}

impl<'a> Host<'a> {
    fn parse_bytes(bytes: &'a [u8]) -> Result<Self> {
        let host = std::str::from_utf8(bytes).ok().and_then(Self::parse);
        host.ok_or_else(|| {
            Error::BadRequest("the Host header is not a name or an address with an optional port".into())
        })
    }

    fn parse(text: &'a str) -> Option<Self> {
        let name_bytes = match text.find(']') {
            Some(end) => end + 1,
            None => text.find(':').unwrap_or(text.len()),
        };
        let (name, port) = text.split_at(name_bytes);
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => match digits {
                "" => None,
                digits => Some(digits.parse().ok()?),
            },
            None if port.is_empty() => None,
            Some(_) | None => return None,
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_name = || (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain);
        if !is_name() && bracketed_ipv6(name).is_none() {
            return None;
        }
        Some(Self { name: name.strip_suffix('.').unwrap_or(name), port })
    }

    /// `localhost` is this machine's loopback address.
    fn is_same(self, other: Self, scheme: &str) -> bool {
        let name = |host: Self| {
            if host.name.eq_ignore_ascii_case("localhost") {
                "127.0.0.1".to_owned()
            } else {
                host.name.to_lowercase()
            }
        };
        name(self) == name(other) && self.port_of(scheme) == other.port_of(scheme)
    }

    fn port_of(self, scheme: &str) -> u16 {
        self.port.unwrap_or(if scheme == "https" { 443 } else { 80 })
    }
}

fn bracketed_ipv6(name: &str) -> Option<Ipv6Addr> {
    name.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// Whether a name is always allowed: nobody can make an IP address or `localhost` point elsewhere.
fn is_local(name: &str) -> bool {
    name.parse::<Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || bracketed_ipv6(name).is_some()
}

/// Whether a pattern of `--allowed-host` matches `name`.
fn matches_name(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(name),
        Some(domain) => name
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain)),
    }
}

/// The scheme and the host of an origin; `None` for `null` and anything that is not an origin on the web.
fn parse_origin(origin: &HeaderValue) -> Option<(&str, Host<'_>)> {
    let (scheme, host) = origin.to_str().ok()?.split_once("://")?;
    matches!(scheme, "http" | "https").then_some((scheme, Host::parse(host)?))
}

/// Whether the reader followed a link: the browser then shows the response as a page of its own, and the page with the link sees nothing of
/// it.
fn is_navigation(headers: &HeaderMap, method: &Method) -> bool {
    let says = |name: &HeaderName, word: &str| headers.get(name).is_some_and(|value| value == word);
    matches!(*method, Method::GET | Method::HEAD)
        && says(&SEC_FETCH_MODE, "navigate")
        && says(&SEC_FETCH_DEST, "document")
}

fn foreign_origin(origin: &HeaderValue) -> Error {
    if origin == "null" {
        return Error::Forbidden(
            "a page without an origin (a file, or a sandboxed frame) may not use this node: serve the page over HTTP, and start the node \
             with --cors-origin and its origin"
                .into(),
        );
    }
    let text: String = String::from_utf8_lossy(origin.as_bytes()).chars().take(QUOTED_CHARS_MAX).collect();
    Error::Forbidden(match parse_origin(origin) {
        Some(_) => format!(
            "pages of the origin {text:?} may not use this node: to allow them, start it with --cors-origin {text}"
        ),
        None => {
            format!("the header Origin is {text:?}, which is not the origin of a page that may use this node")
        }
    })
}
