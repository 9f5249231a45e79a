//! `/openapi.json`, the description of this API, and `/_/docs`, a page made from it. All of it is in the binary, and the page asks nobody
//! else for anything.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hyper::{
    Method, StatusCode,
    header::{self, HeaderValue},
};
use warp::{Filter, filters::BoxedFilter, reply::Response};

use super::{exactly, route};
use crate::{
    error::Result,
    http::{
        openapi,
        request::{Call, condition, route::Route},
        response,
    },
};

/// The page may use what this node serves, and nothing else; no page may frame it.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// A text that does not change while the process runs.
pub(super) struct Asset {
    content_type: HeaderValue,
    text: Bytes,
    tag: HeaderValue,
}

impl Asset {
    /// With a tag that is the text's hash.
    pub(super) fn new(content_type: HeaderValue, text: impl Into<Bytes>) -> Arc<Self> {
        let text = text.into();
        let hash = blake3::hash(&text).to_hex();
        let tag = HeaderValue::from_str(&format!("\"{}\"", &hash[..16])).expect("a hash is visible ASCII");
        Arc::new(Self { content_type, text, tag })
    }
}

/// The routes of this file.
pub fn routes() -> BoxedFilter<(Response,)> {
    let serve_at = |kind, path, asset: fn() -> Arc<Asset>| {
        route(kind, exactly(path), move |call: Call, ()| std::future::ready(answer(&call, asset)))
    };
    serve_at(Route::OpenApi, "/openapi.json", document)
        .or(serve_at(Route::Docs, "/_/docs", page))
        .unify()
        .or(serve_at(Route::Docs, "/_/docs/page.js", script))
        .unify()
        .or(serve_at(Route::Docs, "/_/docs/page.css", style))
        .unify()
        .boxed()
}

/// `GET /openapi.json`
fn document() -> Arc<Asset> {
    static ASSET: OnceLock<Arc<Asset>> = OnceLock::new();
    ASSET.get_or_init(|| Asset::new(response::JSON, format!("{}\n", openapi::document()))).clone()
}

/// `GET /_/docs`
fn page() -> Arc<Asset> {
    static ASSET: OnceLock<Arc<Asset>> = OnceLock::new();
    let of = || {
        Asset::new(HeaderValue::from_static("text/html; charset=utf-8"), include_str!("../openapi/page.html"))
    };
    ASSET.get_or_init(of).clone()
}

/// `GET /_/docs/page.js`
fn script() -> Arc<Asset> {
    static ASSET: OnceLock<Arc<Asset>> = OnceLock::new();
    let of = || {
        Asset::new(
            HeaderValue::from_static("text/javascript; charset=utf-8"),
            include_str!("../openapi/page.js"),
        )
    };
    ASSET.get_or_init(of).clone()
}

/// `GET /_/docs/page.css`
fn style() -> Arc<Asset> {
    static ASSET: OnceLock<Arc<Asset>> = OnceLock::new();
    let of = || {
        Asset::new(HeaderValue::from_static("text/css; charset=utf-8"), include_str!("../openapi/page.css"))
    };
    ASSET.get_or_init(of).clone()
}

fn answer(call: &Call, asset: fn() -> Arc<Asset>) -> Result<Response> {
    serve(call, &asset())
}

/// Answers a request for an asset.
///
/// # Errors
/// `MethodNotAllowed`; `BadRequest` for tags that are none.
pub(super) fn serve(call: &Call, asset: &Asset) -> Result<Response> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return response::other_method(call);
    }
    // Refuses what is no list of tags.
    condition::of_write(&call.headers)?;
    let mut response = if has_already(call, &asset.tag) {
        response::empty(StatusCode::NOT_MODIFIED)
    } else {
        response::with_type(asset.content_type.clone(), asset.text.clone())
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, asset.tag.clone());
    // Kept, but asked about each time: the node may be another version the next time.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    Ok(response)
}

/// Whether `If-None-Match` has this tag.
fn has_already(call: &Call, tag: &HeaderValue) -> bool {
    let lines = call.headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    let mut tags = lines.flat_map(|line| line.split(',')).map(str::trim);
    tags.any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_nobody_else_and_has_nothing_inline() {
        for (text, needs) in
            [(page().text.clone(), "/_/docs/page.js"), (script().text.clone(), "/openapi.json")]
        {
            let text = std::str::from_utf8(&text).expect("text").to_owned();
            assert!(text.contains(needs));
            for forbidden in ["http://", "https://", "src=\"//", "style=\"", "onclick=", "<style", "eval("] {
                assert!(!text.contains(forbidden), "{forbidden}");
            }
        }
        assert!(!std::str::from_utf8(&style().text).expect("text").contains("url("));
    }

    #[test]
    fn who_has_it_is_not_sent_it_again() {
        let with = |value: &str| {
            let request = hyper::Request::builder().uri("/openapi.json").header("if-none-match", value);
            let call = Call::of(request.body(()).expect("a request"));
            answer(&call, document).expect("an answer").status()
        };
        let tag = document().tag.to_str().expect("text").to_owned();
        for has in [tag.as_str(), "*", &format!("W/{tag}"), &format!("\"x\", {tag}")] {
            assert_eq!(with(has), StatusCode::NOT_MODIFIED, "{has}");
        }
        assert_eq!(with("\"x\""), StatusCode::OK);
    }
}
