//! `/_/admin/...`: what a node can be told to do. Whoever tells it proves first that they know the cluster secret or the node's admin
//! token, wherever they ask from:
//!
//! 1. `GET /_/admin/challenge` -> `{"nonce":"<64 hexadecimal digits>"}`, good once and for 30 s;
//! 2. the request, with `Authorization: DynaRust nonce=<hex>, proof=<hex>`. The proof is the keyed blake3 of the nonce's bytes,
//!    the method, a zero byte, the path, a zero byte, and the blake3 of the body; the key is blake3's `derive_key` of the secret
//!    in the context `dynarust 2026 admin challenge`, or of the token's 32 bytes in `dynarust 2026 admin token`.
//!
//! For scripts on the node's machine the token is enough by itself: `Authorization: Bearer <token>`.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use hyper::{
    Method,
    header::{self, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;
use warp::{Filter, filters::BoxedFilter, reply::Response};

use super::{exactly, route};
use crate::{
    error::{Error, Result},
    http::{
        request::{Call, body, route::Route},
        response,
    },
    node::{Node, admin::Request},
};

/// Longest body taken. It is read before the proof over it can be looked at.
const BODY_BYTES_MAX: u64 = 4 * 1024;
/// The routes of this file.
pub fn routes(node: &Arc<Node>) -> BoxedFilter<(Response,)> {
    let asked = Arc::clone(node);
    let challenge = route(Route::Admin, exactly("/_/admin/challenge"), move |call, ()| {
        challenge(Arc::clone(&asked), call)
    });
    challenge
        .or(command(node, "/_/admin/forget", forget))
        .unify()
        .or(command(node, "/_/admin/leave", leave))
        .unify()
        .or(command(node, "/_/admin/sync", sync))
        .unify()
        .boxed()
}

/// `GET /_/admin/challenge`
async fn challenge(node: Arc<Node>, call: Call) -> Result<Response> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return response::other_method(&call, "GET, HEAD, OPTIONS");
    }
    let mut response = response::json(&json!({ "nonce": node.challenge()?.to_string() }))?;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The route of something that the node can be told to do.
fn command<F>(
    node: &Arc<Node>,
    path: &'static str,
    run: fn(Arc<Node>, Bytes) -> F,
) -> BoxedFilter<(Response,)>
where
    F: Future<Output = Result<Value>> + Send + 'static,
{
    let node = Arc::clone(node);
    route(Route::Admin, exactly(path), move |call: Call, ()| {
        let node = Arc::clone(&node);
        async move {
            if call.method != Method::POST {
                return response::other_method(&call, "POST, OPTIONS");
            }
            let body = body::read(&call, BODY_BYTES_MAX).await?.into_bytes();
            let request = Request { method: call.method.as_str(), path: call.path(), body: &body };
            node.authorize(call.remote.ip(), &request, call.header(header::AUTHORIZATION))?;
            info!(remote = %call.remote, path, "told what to do");
            response::json(&run(node, body).await?)
        }
    })
}

/// What `forget` is about.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with a \"node\"")]
struct ForgetBody {
    node: String,
    #[serde(default)]
    force: bool,
}

/// `POST /_/admin/forget {"node":"<id or address>","force":false}` -> `{"forgotten":"<id>"}`. `force`: also where no majority is here.
async fn forget(node: Arc<Node>, body: Bytes) -> Result<Value> {
    let body: ForgetBody = body::parse_object(&body)?;
    let member = node.cluster().member(&body.node)?;
    node.forget(member, body.force).await?;
    Ok(json!({ "forgotten": member.to_string() }))
}

/// `POST /_/admin/leave` -> `{"left":true,"peers":n}`: the others that are there to go on. The node stops then.
async fn leave(node: Arc<Node>, body: Bytes) -> Result<Value> {
    check_empty(&body)?;
    // A task of its own: begun, it goes on to its end, also where whoever asked does not wait for that.
    let leaving = tokio::spawn(async move { node.leave().await });
    let peers = leaving.await.map_err(|error| Error::Io(format!("leaving broke off: {error}")))??;
    Ok(json!({ "left": true, "peers": peers }))
}

/// `POST /_/admin/sync` -> `{"peers":n}`: with how many a comparison was begun.
async fn sync(node: Arc<Node>, body: Bytes) -> Result<Value> {
    check_empty(&body)?;
    Ok(json!({ "peers": node.sync_now()? }))
}

/// The body of an order that needs no more words: nothing, or an empty object.
fn check_empty(body: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Empty {}
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    body::parse_object::<Empty>(body).map(|Empty {}| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bodies of orders were passed over, and so were members of that of `forget`.
    #[test]
    fn an_order_takes_no_words_that_nobody_reads() {
        for fine in [&b""[..], b" \n", b"{}", b" {} "] {
            assert_eq!(check_empty(fine), Ok(()));
        }
        for wrong in [&b"{\"force\":true}"[..], b"1", b"[]", b"{"] {
            assert!(check_empty(wrong).is_err());
        }
        let refused = body::parse_object::<ForgetBody>(br#"{"node":"a","nod":"b"}"#).err();
        assert!(matches!(refused, Some(Error::BadRequest(why)) if why.contains("did you mean \"node\"?")));
    }
}
