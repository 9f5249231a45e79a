//! How fresh a read must be, by `?read=`, and what strong tables refuse.

use super::Call;
use crate::{
    core::{name::TableName, nearest},
    error::{Error, Result},
    node::{Node, strong::Consistency},
};

/// What the query asks for.
///
/// # Errors
/// `BadRequest`.
pub fn of_query(call: &Call) -> Result<Consistency> {
    named(call.query().get("read")?.as_deref())
}

/// What `read` asks for.
///
/// # Errors
/// `BadRequest`.
pub fn named(read: Option<&str>) -> Result<Consistency> {
    match read {
        None | Some("linearizable") => Ok(Consistency::Linearizable),
        Some("stale") => Ok(Consistency::Stale),
        Some(other) => Err(Error::BadRequest(nearest::unknown("read=", other, &["linearizable", "stale"]))),
    }
}

/// Waits until the node may serve a read of this table.
///
/// # Errors
/// `BadRequest`; `NoQuorum`; `NotReady`.
pub async fn before_read(node: &Node, call: &Call, table: &TableName) -> Result<Consistency> {
    let consistency = of_query(call)?;
    node.before_read(table, consistency).await?;
    Ok(consistency)
}

/// Refuses `?w=` for a strong table.
///
/// # Errors
/// `BadRequest`.
pub async fn check_write_concern(node: &Node, call: &Call, table: &TableName) -> Result<()> {
    if call.uri.query().is_some() && call.query().get("w")?.is_some() && node.writes_strong(table, None).await
    {
        return Err(Error::BadRequest(format!(
            "w: table {table} is strong, and each of its writes is answered when a majority of the voters holds it: leave w out"
        )));
    }
    Ok(())
}
