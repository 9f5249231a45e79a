//! `/_/backup`: all rows as they are at one instant, tombstones included, with what the node knows about its cluster, as lines for
//! `DynaRust backup` (`docs/backup.md`). Like the commands of `admin`, it takes a proof of the cluster secret, the node's
//! admin token, or a client's token; that must have the rights `admin` and, for all tables, `read`.

use std::sync::Arc;

use hyper::Method;
use warp::{filters::BoxedFilter, reply::Response};

use super::{admin, exactly, route};
use crate::{
    error::Result,
    http::{
        request::{Call, route::Route},
        response::{
            self,
            chunks::{self, Chunk, Chunks},
        },
    },
    node::{BackupLines, Node},
};

/// The route of backups.
pub fn routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(Route::Backup, exactly("/_/backup"), move |call, ()| backup(Arc::clone(&node), call))
}

/// `GET /_/backup`
async fn backup(node: Arc<Node>, call: Call) -> Result<Response> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return response::other_method(&call);
    }
    admin::authorize(&node, &call, &[])?;
    if call.method == Method::HEAD {
        // There is one at a time, and this one would be read by nobody.
        return Ok(response::with_type(response::NDJSON, Vec::new()));
    }
    let lines = Lines { lines: node.backup().await?, next: None };
    chunks::answer(&call, response::NDJSON, lines).await
}

/// A backup, one page ahead: the last one is known as such.
struct Lines {
    lines: BackupLines,
    next: Option<Vec<u8>>,
}

impl Chunks for Lines {
    async fn next(&mut self) -> Result<Chunk> {
        let bytes = match self.next.take() {
            Some(bytes) => bytes,
            None => self.lines.next().await?.unwrap_or_default(),
        };
        self.next = self.lines.next().await?;
        Ok(Chunk { bytes, last: self.next.is_none() })
    }
}
