//! The data model of etcd's API (version 3), as pure functions: keys with revisions, transactions, leases, and what watchers are told.
//!
//! All of it is rows of one strong table, [`table`]. The leader evaluates a request on the state that its log makes, as any other request to a
//! strong table, and its result is registers in the log. The revision is a number in one of these rows, so it is decided where everything
//! is ordered.
//!
//! ```text
//! head                          {"revision":7,"compacted":3}
//! key:greeting                  {"created":4,"modified":7,"version":2,"lease":"…","text":"hello"}
//! lease:00000000000004d2        {"ttl":60}
//! leased:00000000000004d2:greeting   {}
//! ```
//! - [`row`]: these rows, and their names.
//! - [`request`]: what clients ask, and what they are told.
//! - [`check`]: what is wrong with a request in itself.
//! - [`mod@evaluate`]: what a request comes to on a state.
//! - [`select`]: which of the keys in a range are returned, and in what order.
//! - [`history`]: what the last revisions changed, for watchers and for reads of the past.
//! - [`index`]: which watchers want a key, and [`watchers`]: what each of a stream is told next.
//!
//! What it does as etcd does was taken from etcd's documentation and its source (Apache License 2.0), and is compared with an etcd by tests.

pub mod check;
pub mod evaluate;
pub mod history;
pub mod index;
pub mod request;
pub mod row;
pub mod select;
pub mod watchers;

use std::sync::LazyLock;

use crate::core::name::TableName;

/// The table that has the rows.
pub const TABLE: &str = "etcd";

/// The table that has the rows.
pub fn table() -> &'static TableName {
    static NAME: LazyLock<TableName> = LazyLock::new(|| TableName::parse(TABLE).expect("it is a name"));
    &NAME
}
