//! The dashboard: a page at `/_/`, and at `/` for browsers, with the modules that it is made of. All of it is in the binary. The page asks
//! the node that served it, and, when that stops, another member of the cluster.

use std::{
    collections::HashMap,
    future::{Ready, ready},
    sync::{Arc, OnceLock},
};

use hyper::{
    Method,
    header::{self, HeaderValue},
};
use warp::{Filter, Rejection, filters::BoxedFilter, reply::Response};

use super::{
    describe::{self, Asset},
    exactly, route,
};
use crate::{
    core::access::Touched,
    error::Result,
    http::{
        request::{
            Call,
            accepts::{self, Operation},
            permission::Resource,
            route::Route,
        },
        response,
    },
    node::{MemberState, Node},
};

const PAGE: &str = "/_/";
const FOLDER: &str = "/_/dashboard/";
/// Most members that the page may move to.
const MEMBERS_MAX: usize = 64;

/// Makes the list of files that the page is made of.
macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        /// The files of the page, by name.
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../dashboard/", $name)))),+];
    };
}

files! {
    "index.html",
    "icon.svg",
    "style.css",
    "app.js",
    "charts.js",
    "cluster.js",
    "connection.js",
    "data.js",
    "divergence.js",
    "editor.js",
    "format.js",
    "json.js",
    "live.js",
    "map.js",
    "problems.js",
    "state.js",
    "widgets.js",
    "preact.js",
    "uplot.js",
    "uplot.css",
    "licences.txt",
}

/// The routes of this file.
pub fn routes(node: &Arc<Node>) -> BoxedFilter<(Response,)> {
    let file = |path: &str| path.strip_prefix(FOLDER).and_then(asset).map(|asset| Ok(Found(asset)));
    let files =
        route(Route::Dashboard, file, |call: Call, Found(asset)| ready(describe::serve(&call, &asset)));
    let at_page = Arc::clone(node);
    let page = route(Route::Dashboard, exactly(PAGE), move |call, ()| ready(page(&at_page, &call)));
    let at_root = Arc::clone(node);
    let root = warp::ext::get::<Call>().and_then(wants_page).map(move |call: Call| {
        call.routed(Route::Dashboard);
        page_at_root(&at_root, &call).unwrap_or_else(|error| response::problem(&error, &call))
    });
    files.or(page).unify().or(root).unify().boxed()
}

/// A file of the page.
struct Found(Arc<Asset>);

impl Resource for Found {
    fn touched(&self) -> Touched<'_> {
        Touched::Node
    }
}

fn asset(name: &str) -> Option<Arc<Asset>> {
    static ASSETS: OnceLock<HashMap<&'static str, Arc<Asset>>> = OnceLock::new();
    let make = |(name, text): &(&'static str, &'static str)| (*name, Asset::new(content_type(name), *text));
    ASSETS.get_or_init(|| FILES.iter().map(make).collect()).get(name).cloned()
}

fn content_type(name: &str) -> HeaderValue {
    HeaderValue::from_static(match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    })
}

/// Takes a request for `/` of a client that shows pages. To all others nothing is there.
fn wants_page(call: Call) -> Ready<std::result::Result<Call, Rejection>> {
    let accepts = call.header(header::ACCEPT).unwrap_or_default();
    let is_browser =
        accepts.split(',').any(|kind| kind.split(';').next().map(str::trim) == Some("text/html"));
    let is_read = matches!(call.method, Method::GET | Method::HEAD);
    ready(if call.path() == "/" && is_read && is_browser { Ok(call) } else { Err(warp::reject::not_found()) })
}

fn page_at_root(node: &Node, call: &Call) -> Result<Response> {
    if let Some(operation) = Operation::find(Route::Dashboard, &call.method, PAGE) {
        accepts::check(operation, call)?;
    }
    let mut response = page(node, call)?;
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// `GET /_/`
fn page(node: &Node, call: &Call) -> Result<Response> {
    let asset = asset("index.html").expect("the page is one of the files");
    let mut response = describe::serve(call, &asset)?;
    if response.status().is_success() || response.status().is_redirection() {
        let policy = policy(node, call.connection.options.tls.is_some());
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    Ok(response)
}

/// The page may use what this node serves, and connect to the other members.
fn policy(node: &Node, is_tls: bool) -> HeaderValue {
    let (http, socket) = if is_tls { ("https", "wss") } else { ("http", "ws") };
    let members = node.cluster().members.into_iter();
    let others = members.filter(|member| member.state.is_replica() && member.state != MemberState::Myself);
    let plain =
        |address: &String| address.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte));
    let others: String = others
        .map(|member| member.address)
        .filter(plain)
        .take(MEMBERS_MAX)
        .map(|address| format!(" {http}://{address} {socket}://{address}"))
        .collect();
    let policy = format!(
        "default-src 'self'; connect-src 'self'{others}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("addresses of letters, digits, dots and colons")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// All that the page is made of, compressed.
    const GZIPPED_BYTES_MAX: usize = 150_000;

    #[test]
    fn the_page_is_small_and_asks_nobody_else() {
        let mut bytes = 0;
        for (name, text) in FILES {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(text.as_bytes()).expect("memory");
            bytes += encoder.finish().expect("memory").len();
            let is_ours = !["preact.js", "uplot.js", "uplot.css", "licences.txt", "icon.svg"].contains(name);
            for forbidden in ["https://", "src=\"//", "<style", "eval(", "innerHTML", "onclick=\""] {
                assert!(!is_ours || !text.contains(forbidden), "{name}: {forbidden}");
            }
        }
        assert!(bytes <= GZIPPED_BYTES_MAX, "{bytes} bytes");
    }

    #[test]
    fn every_module_that_is_imported_is_served() {
        let mut imported = 0;
        for (name, text) in FILES.iter().filter(|(name, _)| name.ends_with(".js")) {
            for line in text.lines().filter(|line| line.starts_with("import ")) {
                let module = line.split("\"./").nth(1).and_then(|rest| rest.split('"').next());
                let module = module.unwrap_or_else(|| panic!("{name}: {line}"));
                assert!(asset(module).is_some(), "{name}: {module}");
                imported += 1;
            }
        }
        assert!(imported > 10, "{imported}");
        for path in asset("index.html").map(|_| FILES[0].1).unwrap_or_default().split("/_/dashboard/").skip(1)
        {
            let name = path.split('"').next().unwrap_or_default();
            assert!(asset(name).is_some(), "{name}");
        }
    }
}
