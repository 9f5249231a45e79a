//! `/_/admin/...`: commands to a node, and what `/_/strong/...` shares with them. A client must prove that it knows the cluster secret or the node's admin token, wherever it connects
//! from:
//!
//! 1. `GET /_/admin/challenge` -> `{"nonce":"<64 hexadecimal digits>"}`, valid once and for 30 s;
//! 2. the command, with `Authorization: DynaRust nonce=<hex>, proof=<hex>`. The proof is the keyed blake3 hash of the nonce's bytes, the
//!    method, a zero byte, the path, a zero byte, and the blake3 hash of the body. The key is blake3's `derive_key` of the secret in the
//!    context `dynarust 2026 admin challenge`, or of the token's 32 bytes in `dynarust 2026 admin token`.
//!
//! Scripts on the node's machine may send the token alone: `Authorization: Bearer <token>`. A client's own token with the right `admin` does
//! as well, and is checked before the handler runs (`routes::route`).

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use hyper::{
    Method,
    header::{self, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Value, json};
use warp::{Filter, filters::BoxedFilter, reply::Response};

use super::{exactly, route};
use crate::{
    error::{Error, Result},
    http::{
        access::Principal,
        audit,
        request::{Call, body, route::Route},
        response,
    },
    node::{Node, admin::Request},
};

/// Longest body accepted. We read it before we can check the proof over it.
const BODY_BYTES_MAX: u64 = 4 * 1024;
/// The routes of this file.
pub fn routes(node: &Arc<Node>) -> BoxedFilter<(Response,)> {
    let asked = Arc::clone(node);
    let challenge = route(Route::Admin, exactly("/_/admin/challenge"), move |call, ()| {
        challenge(Arc::clone(&asked), call)
    });
    challenge
        .or(command(node, Route::Admin, "/_/admin/forget", forget))
        .unify()
        .or(command(node, Route::Admin, "/_/admin/leave", leave))
        .unify()
        .or(command(node, Route::Admin, "/_/admin/sync", sync))
        .unify()
        .boxed()
}

/// `GET /_/admin/challenge`
async fn challenge(node: Arc<Node>, call: Call) -> Result<Response> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return response::other_method(&call);
    }
    let mut response = response::json(&json!({ "nonce": node.challenge()?.to_string() }))?;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The route of one command.
pub fn command<F>(
    node: &Arc<Node>,
    resource: Route,
    path: &'static str,
    run: fn(Arc<Node>, Bytes) -> F,
) -> BoxedFilter<(Response,)>
where
    F: Future<Output = Result<Value>> + Send + 'static,
{
    let node = Arc::clone(node);
    route(resource, exactly(path), move |call: Call, ()| {
        let node = Arc::clone(&node);
        async move {
            if call.method != Method::POST {
                return response::other_method(&call);
            }
            let body = body::read(&call, BODY_BYTES_MAX).await?.into_bytes();
            authorize(&node, &call, &body)?;
            response::json(&run(node, body).await?)
        }
    })
}

/// Checks that a client may command the node, and records that it does.
///
/// # Errors
/// As `Node::authorize`.
pub fn authorize(node: &Node, call: &Call, body: &[u8]) -> Result<()> {
    // A client whose token has the right needs no other proof.
    if *call.principal() == Principal::Nobody {
        let request = Request { method: call.method.as_str(), path: call.path(), body };
        node.authorize(call.remote.ip(), &request, call.header(header::AUTHORIZATION))?;
        call.sent_by(Principal::Operator);
    }
    audit::begun(call);
    Ok(())
}

/// The body of `forget`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with a \"node\"")]
struct ForgetBody {
    node: String,
    #[serde(default)]
    force: bool,
}

/// `POST /_/admin/forget {"node":"<id or address>","force":false}` -> `{"forgotten":"<id>"}`. `force` works without a majority of the
/// members.
async fn forget(node: Arc<Node>, body: Bytes) -> Result<Value> {
    let body: ForgetBody = body::parse_object(&body)?;
    let member = node.cluster().member(&body.node)?;
    node.forget(member, body.force).await?;
    Ok(json!({ "forgotten": member.to_string() }))
}

/// `POST /_/admin/leave` -> `{"left":true,"peers":n}`, with the number of members that remain. The node then stops.
async fn leave(node: Arc<Node>, body: Bytes) -> Result<Value> {
    check_empty(&body)?;
    // In a task of its own, so that leaving completes even if the client goes away.
    let leaving = tokio::spawn(async move { node.leave().await });
    let peers = leaving.await.map_err(|error| Error::Io(format!("leaving failed: {error}")))??;
    Ok(json!({ "left": true, "peers": peers }))
}

/// `POST /_/admin/sync` -> `{"peers":n}`, with the number of peers that a comparison was started with.
async fn sync(node: Arc<Node>, body: Bytes) -> Result<Value> {
    check_empty(&body)?;
    Ok(json!({ "peers": node.sync_now()? }))
}

/// Checks the body of a command without parameters: nothing, or an empty object.
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

    /// The bodies of commands used to be ignored, and so were unknown members of the body of `forget`.
    #[test]
    fn a_command_refuses_members_it_does_not_know() {
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
