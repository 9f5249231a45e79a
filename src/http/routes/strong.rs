//! Strong tables: `PUT /_/tables/{table}` makes one, `POST /_/txn` runs a transaction, and `POST /_/strong/...` is for operators.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use warp::{Filter, filters::BoxedFilter, reply::Response};

use super::{admin::command, exactly, route};
use crate::{
    core::{name::TableName, nearest},
    error::{Error, Result},
    http::{
        request::{
            Call, body, path,
            route::Route,
            transaction::{self, TransactionBody},
        },
        response,
    },
    node::{Node, strong::RoleChange},
};

/// Longest body of a request that makes a table.
const MODE_BYTES_MAX: u64 = 1024;

/// The routes of this file.
pub fn routes(node: &Arc<Node>) -> BoxedFilter<(Response,)> {
    let (table, transaction) = (Arc::clone(node), Arc::clone(node));
    route(Route::TableMode, path::table_of_catalogue, move |call, name| make(Arc::clone(&table), call, name))
        .or(route(Route::Transaction, exactly("/_/txn"), move |call, ()| {
            transact(Arc::clone(&transaction), call)
        }))
        .unify()
        .or(command(node, Route::Strong, "/_/strong/init", init))
        .unify()
        .or(command(node, Route::Strong, "/_/strong/promote", promote))
        .unify()
        .or(command(node, Route::Strong, "/_/strong/demote", demote))
        .unify()
        .or(command(node, Route::Strong, "/_/strong/transfer", transfer))
        .unify()
        .boxed()
}

/// The body of a request that makes a table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with a \"mode\"")]
struct ModeBody<'a> {
    #[serde(borrow)]
    mode: Cow<'a, str>,
}

/// `PUT /_/tables/{table}`
async fn make(node: Arc<Node>, call: Call, table: TableName) -> Result<Response> {
    if call.method != Method::PUT {
        return response::other_method(&call);
    }
    let bytes = body::read(&call, MODE_BYTES_MAX).await?;
    let body: ModeBody = body::parse_object(&bytes)?;
    let created = match body.mode.as_ref() {
        "strong" => node.create_strong(table.clone()).await?,
        // An eventual table is made by its first write.
        "eventual" if !node.is_strong(&table) => false,
        "eventual" => {
            return Err(Error::WrongMode(format!(
                "table {table} is strong, and a table's mode never changes: take another name"
            )));
        }
        other => return Err(Error::BadRequest(nearest::unknown("mode", other, &["strong", "eventual"]))),
    };
    let mut response = response::json(&json!({ "table": table.as_str(), "mode": body.mode }))?;
    if created {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

/// `POST /_/txn`
async fn transact(node: Arc<Node>, call: Call) -> Result<Response> {
    if call.method != Method::POST {
        return response::other_method(&call);
    }
    let bytes = body::read(&call, call.connection.options.body_bytes_max).await?;
    let transaction = body::parse_aside(bytes.len(), || {
        let body: TransactionBody<'_> = body::parse_object(&bytes)?;
        body.transaction(node.value_bytes_max(), node.now_ms())
    })?;
    drop(bytes);
    call.principal().check_transaction(&transaction)?;
    let tables = transaction.written_tables();
    let (succeeded, results) =
        node.transact(transaction).await.map_err(|error| call.principal().conceal_any(&tables, error))?;
    let mut text = transaction::rendered(succeeded, &results);
    text.push('\n');
    Ok(response::json_text(text))
}

/// The body of `init`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object, empty or with \"force\"")]
struct InitBody {
    #[serde(default)]
    force: bool,
}

/// `POST /_/strong/init {"force":false}` -> `{"group":"<id>","forced":false,"others":["<id>"]}`: on the node that is asked. `force` works
/// without a majority.
async fn init(node: Arc<Node>, body: Bytes) -> Result<Value> {
    let body = if body.trim_ascii().is_empty() { Bytes::from_static(b"{}") } else { body };
    let InitBody { force } = body::parse_object(&body)?;
    // In a task of its own, so that it completes even if the client goes away.
    let started = tokio::spawn(async move { node.init_strong(force).await });
    let started =
        started.await.map_err(|error| Error::Io(format!("starting the group failed: {error}")))??;
    let others: Vec<_> = started.others.iter().map(ToString::to_string).collect();
    Ok(json!({ "group": format!("{:016x}", started.group), "forced": started.is_forced, "others": others }))
}

/// The body of the commands about one member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with a \"node\"")]
struct RoleBody {
    node: String,
}

/// `POST /_/strong/promote {"node":"<id or address>"}` -> `{"node":"<id>","changed":true}`: the member votes.
async fn promote(node: Arc<Node>, body: Bytes) -> Result<Value> {
    change_role(node, body, RoleChange::Promote).await
}

/// `POST /_/strong/demote {"node":"<id or address>"}` -> `{"node":"<id>","changed":true}`: the member is a learner.
async fn demote(node: Arc<Node>, body: Bytes) -> Result<Value> {
    change_role(node, body, RoleChange::Demote).await
}

/// `POST /_/strong/transfer {"node":"<id or address>"}` -> `{"node":"<id>","changed":true}`: the member leads.
async fn transfer(node: Arc<Node>, body: Bytes) -> Result<Value> {
    change_role(node, body, RoleChange::Lead).await
}

async fn change_role(node: Arc<Node>, body: Bytes, change: RoleChange) -> Result<Value> {
    let RoleBody { node: name } = body::parse_object(&body)?;
    let member = node.cluster().present_member(&name)?;
    let changed = node.change_role(change, member).await?;
    Ok(json!({ "node": member.to_string(), "changed": changed }))
}
