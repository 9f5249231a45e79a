//! `DELETE /{table}`: delete all rows of a table, or those with a key prefix.
//!
//! It deletes page by page, each page as durable as any write, and subscribers see each deletion. So memory stays flat, and a client that
//! is cut off calls again to continue. Keys written meanwhile, after the last key that was there at the start, stay.

use std::sync::Arc;

use hyper::Method;
use serde_json::json;
use warp::{filters::BoxedFilter, reply::Response};

use super::route;
use crate::{
    core::name::TableName,
    error::Result,
    http::{
        access::lease::HeldLease,
        request::{Call, condition, consistency, path, permission, route::Route, value::prefix_of},
        response,
    },
    node::{Node, Removal, WriteConcern},
};

/// The route of whole tables. It comes last, because the server's own paths of one segment go first.
pub fn routes(node: Arc<Node>) -> BoxedFilter<(Response,)> {
    route(Route::Table, path::table_alone, move |call, table| answer(Arc::clone(&node), call, table))
}

async fn answer(node: Arc<Node>, call: Call, table: TableName) -> Result<Response> {
    if call.method != Method::DELETE {
        return response::other_method(&call);
    }
    let (prefix, confirm) = (call.query().get("prefix")?, call.query().get("confirm")?);
    let prefix = prefix_of(&table, prefix.as_deref(), confirm.as_deref())?;
    consistency::check_write_concern(&node, &call, &table).await?;
    let concern = condition::write_concern(&call)?;
    let mut removal = node.begin_removal(table, prefix);
    match run(&node, &mut removal, concern, permission::held_lease(&call)?).await {
        Ok(()) => response::json(&json!({ "deleted": removal.deleted() })),
        Err(error) => {
            let mut problem = response::problem_object(&error, call.request_id.to_str().unwrap_or_default());
            let deleted = removal.deleted();
            problem["detail"] =
                json!(format!("{error}; {deleted} keys are already deleted: call again to continue"));
            problem["deleted"] = json!(deleted);
            Ok(response::problem_of(&error, &problem))
        }
    }
}

async fn run(
    node: &Arc<Node>,
    removal: &mut Removal,
    concern: WriteConcern,
    mut lease: HeldLease,
) -> Result<()> {
    while let Some(last) = removal.step(node).await? {
        // Wait page by page, so that no peer falls behind further than the journal reaches.
        node.replicated(last, concern).await?;
        lease.check()?;
    }
    Ok(())
}
