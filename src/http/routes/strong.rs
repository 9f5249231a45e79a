//! Strong tables: `PUT /_/tables/{table}` makes one, `POST /_/txn` runs a transaction.

use std::{borrow::Cow, sync::Arc};

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use warp::{Filter, filters::BoxedFilter, reply::Response};

use super::{exactly, route};
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
    node::Node,
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
    let body: TransactionBody<'_> = body::parse_object(&bytes)?;
    let transaction = body.transaction(node.value_bytes_max(), node.now_ms())?;
    drop(bytes);
    let (succeeded, results) = node.transact(transaction).await?;
    response::json(&transaction::rendered(succeeded, &results))
}
