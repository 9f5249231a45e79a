//! What a client may see of the metrics.

use crate::{core::name::TableName, http::access::Principal};

/// The page without the series of tables that the client may not read.
pub fn visible(page: String, principal: &Principal) -> String {
    let is_visible = |line: &&str| {
        let table = line.split_once("{table=\"").and_then(|(_, rest)| rest.split('"').next());
        table.is_none_or(|name| TableName::parse(name).is_ok_and(|table| principal.may_see(&table)))
    };
    match principal {
        Principal::Anyone | Principal::Operator => page,
        Principal::Token(_) | Principal::Nobody => page.split_inclusive('\n').filter(is_visible).collect(),
    }
}
