//! Which requests are answered at all, whatever their route. A browser lends every page that it shows its network: a page of any
//! site can send requests to a node on its reader's machine, and one whose name was made to point there (DNS rebinding) can
//! read the answers. Both are refused here, before routing:
//!
//! - the name that a request is for (`Host`, `:authority`) must be an address, `localhost`, a name that this node is known by
//!   or one of `--allowed-host`, else 421: a rebound name is none of these;
//! - the page that made a request (`Origin`, `Sec-Fetch-Site`) must be this node's own or of an origin in `--cors-origin`, else 403.
//!
//! Clients that are no browsers send neither header of a page, and pass. Nodes that link pass under any name, as their peers know
//! them by names of their own: a browser cannot open `/_/link` without an `Origin`, and the link itself proves who is there.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hyper::{
    HeaderMap, Method, Version,
    header::{self, HeaderName, HeaderValue},
};
use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};

use super::{cors, tls};
use crate::{
    error::{Error, Result},
    http::{
        Options,
        request::{Call, upgrade},
    },
    node::{LINK_PATH, Node},
};

/// Where the page is that made a request, as the browser sees it. No page can set it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// Longest name in the DNS.
const NAME_BYTES_MAX: usize = 253;
/// Longest origin quoted back.
const QUOTED_CHARS_MAX: usize = 300;

/// Decides which requests are answered.
pub struct Guard {
    node: Arc<Node>,
    /// In lower case; `*.` at the beginning stands for one label.
    allowed_hosts: Vec<String>,
    cors_origins: Vec<String>,
    /// Whose names are this node's. Set where clients are served over TLS.
    certificate: Option<CertificateDer<'static>>,
}

impl Guard {
    /// The guard of a server that runs with these options.
    ///
    /// # Errors
    /// `Config` for a certificate that does not load.
    pub fn new(node: Arc<Node>, options: &Options) -> Result<Self> {
        let certificate = match &options.tls {
            Some(tls) => tls::certificates(&tls.cert)?.into_iter().next(),
            None => None,
        };
        Ok(Self {
            node,
            allowed_hosts: options.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            cors_origins: options.cors_origins.clone(),
            certificate,
        })
    }

    /// Lets a request pass, whose head says this.
    ///
    /// # Errors
    /// `BadRequest` where it does not say which host it is for, or says several; `Misdirected` where that is not this node;
    /// `Forbidden` where a page of another site made it.
    pub fn admit(&self, call: &Call, head: &GuardHeaders<'_>) -> Result<()> {
        let requested = head.requested_host(call)?;
        let has_page = head.origin.is_some() || head.site.is_some();
        // Most requests of a connection are for the host that the first was for.
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
            "this node does not know itself as {name:?}, which this request is for, and answers under its own names only: a \
             page of another site could use any other. If clients are to reach it so, start it with --allowed-host {name}"
        )))
    }

    fn is_allowed(&self, name: &str) -> bool {
        self.allowed_hosts.iter().any(|pattern| matches_name(pattern, name))
    }

    fn is_certified(&self, name: &str) -> bool {
        let Some(certificate) = &self.certificate else { return false };
        let parsed = ParsedCertificate::try_from(certificate);
        let name = ServerName::try_from(name);
        parsed.is_ok_and(|parsed| name.is_ok_and(|name| verify_server_name(&parsed, &name).is_ok()))
    }

    /// `host`: what the request is for, which is this node where there is a page.
    fn admit_page(&self, call: &Call, head: &GuardHeaders<'_>, host: Option<Host<'_>>) -> Result<()> {
        let is_cross_site = head.site.is_some_and(|site| site == "cross-site");
        let Some(origin) = head.origin else {
            return match is_cross_site && !is_navigation(&call.headers, &call.method) {
                false => Ok(()),
                true => Err(Error::Forbidden(
                    "a page of another site made this request: pages may use this node by fetch, EventSource and WebSocket, \
                     if it is started with --cors-origin and their origin"
                        .into(),
                )),
            };
        };
        let is_single = head.origins == 1;
        if is_single && cors::is_allowed(&self.cors_origins, origin) {
            return Ok(());
        }
        let is_own = |host: Host<'_>| self.is_own(origin, host, head.site);
        if is_single && !is_cross_site && host.is_some_and(is_own) {
            return Ok(());
        }
        Err(foreign_origin(origin))
    }

    /// Whether a page of `origin` is this node's own. Never because `Origin` and `Host` are the same alone: a rebound name
    /// is in both.
    fn is_own(&self, origin: &HeaderValue, host: Host<'_>, site: Option<&HeaderValue>) -> bool {
        let Some((scheme, page)) = parse_origin(origin) else { return false };
        let own_scheme = if self.certificate.is_some() { "https" } else { "http" };
        let is_same = scheme == own_scheme
            && page.name.eq_ignore_ascii_case(host.name)
            && page.port_of(scheme) == host.port_of(own_scheme);
        // Behind a proxy that speaks TLS the page's scheme is another, and the host may be. The browser has compared both.
        let is_same_origin_by_proxy =
            || site.is_some_and(|site| site == "same-origin") && self.is_known(page.name);
        is_same || is_same_origin_by_proxy()
    }

    fn is_known(&self, name: &str) -> bool {
        is_local(name) || self.is_allowed(name) || self.node.is_reached_as(name) || self.is_certified(name)
    }
}

/// What a head says that the guard looks at: found by one walk over it, as each search for a header costs more than a walk.
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
    /// What these headers say.
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

    /// Which host the request is for. `None` where it does not say, which HTTP/1.0 allows; no browser speaks that.
    fn requested_host(&self, call: &'a Call) -> Result<Option<&'a [u8]>> {
        if self.hosts > 1 {
            return Err(Error::BadRequest("there are two Host headers: send one".into()));
        }
        let header = self.host.map(HeaderValue::as_bytes);
        let target = call.uri.authority().map(|authority| authority.as_str().as_bytes());
        match (target, header) {
            (Some(target), Some(header)) if !target.eq_ignore_ascii_case(header) => {
                Err(Error::BadRequest("the target and the Host header name different hosts".into()))
            }
            (None, None) if call.version < Version::HTTP_11 => Ok(None),
            (None, None) => {
                Err(Error::BadRequest("there is no Host header: send one, such as Host: localhost".into()))
            }
            (Some(_), None) if call.version == Version::HTTP_11 => {
                Err(Error::BadRequest("there is no Host header: send one, also beside a whole URL".into()))
            }
            (_, Some(host)) | (Some(host), None) => Ok(Some(host)),
        }
    }
}

/// A host as a request or an origin names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Host<'a> {
    /// A name without the dot that may end it, or an address; an IPv6 one in its brackets.
    name: &'a str,
    port: Option<u16>,
}

impl<'a> Host<'a> {
    fn parse_bytes(bytes: &'a [u8]) -> Result<Self> {
        let host = std::str::from_utf8(bytes).ok().and_then(Self::parse);
        host.ok_or_else(|| {
            Error::BadRequest("the Host header is not a name or an address, with a port or without".into())
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

    fn port_of(self, scheme: &str) -> u16 {
        self.port.unwrap_or(if scheme == "https" { 443 } else { 80 })
    }
}

fn bracketed_ipv6(name: &str) -> Option<Ipv6Addr> {
    name.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// Whether a name needs no permission: nobody can make an address, or `localhost`, point elsewhere.
fn is_local(name: &str) -> bool {
    name.parse::<Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || bracketed_ipv6(name).is_some()
}

/// Whether a pattern of `--allowed-host` stands for `name`.
fn matches_name(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(name),
        Some(domain) => name
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain)),
    }
}

/// The scheme and the host of an origin; `None` for `null` and what is no origin of a page on the web.
fn parse_origin(origin: &HeaderValue) -> Option<(&str, Host<'_>)> {
    let (scheme, host) = origin.to_str().ok()?.split_once("://")?;
    matches!(scheme, "http" | "https").then_some((scheme, Host::parse(host)?))
}

/// Whether the reader of a page followed a link: the answer is shown to them, in a page of its own, and the page that had the
/// link sees nothing of it.
fn is_navigation(headers: &HeaderMap, method: &Method) -> bool {
    let says = |name: &HeaderName, word: &str| headers.get(name).is_some_and(|value| value == word);
    matches!(*method, Method::GET | Method::HEAD)
        && says(&SEC_FETCH_MODE, "navigate")
        && says(&SEC_FETCH_DEST, "document")
}

fn foreign_origin(origin: &HeaderValue) -> Error {
    if origin == "null" {
        return Error::Forbidden(
            "a page without an origin (a file, or a frame in a sandbox) may not use this node: serve it by HTTP, and start the \
             node with --cors-origin and that origin"
                .into(),
        );
    }
    let text: String = String::from_utf8_lossy(origin.as_bytes()).chars().take(QUOTED_CHARS_MAX).collect();
    Error::Forbidden(match parse_origin(origin) {
        Some(_) => format!(
            "pages of the origin {text:?} may not use this node: if they are to, start it with --cors-origin {text}"
        ),
        None => {
            format!("the header Origin is {text:?}, which is not the origin of a page that may use this node")
        }
    })
}
