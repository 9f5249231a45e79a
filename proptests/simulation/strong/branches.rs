//! An invariant of transactions: each takes one of its branches, and never the other. Each branch puts a key of its own, so that it shows in
//! the end which was taken: a condition that is evaluated again, when an entry is applied again after a crash, may hold the other way.

use std::{cell::RefCell, collections::BTreeMap};

use hyper::Method;
use serde_json::{Value, json};

use super::{super::client::ask, client::TABLE};

/// Which branch each transaction took, by the number that it puts; `None` where nobody knows.
#[derive(Default)]
pub struct Branches(RefCell<BTreeMap<u64, Option<bool>>>);

impl Branches {
    pub fn note(&self, transaction: u64, succeeded: Option<bool>) {
        self.0.borrow_mut().insert(transaction, succeeded);
    }

    /// The operation that a branch leaves its mark by.
    pub fn mark(transaction: u64, succeeded: bool) -> Value {
        json!({ "op": "put", "table": TABLE, "key": key(transaction, succeeded), "value": true })
    }

    /// Looks at the marks that a node has. Returns whether it answered.
    ///
    /// # Errors
    /// Which transaction took another branch than it was said, or both.
    pub async fn check(&self, node: usize) -> Result<bool, String> {
        let answer = ask(node, Method::GET, &format!("/{TABLE}/keys?prefix=mark-&limit=1000"), "").await;
        let Some(answer) = answer.filter(|answer| answer.status == 200) else { return Ok(false) };
        let keys: Vec<String> = serde_json::from_str(&answer.body).expect("keys");
        for (transaction, succeeded) in &*self.0.borrow() {
            let marks = [true, false].map(|branch| keys.contains(&key(*transaction, branch)));
            let is_right = match succeeded {
                Some(succeeded) => marks == [*succeeded, !*succeeded],
                None => marks != [true, true],
            };
            if !is_right {
                return Err(format!(
                    "transaction {transaction} was answered {succeeded:?}, and node {node} has the marks of success and failure: {marks:?}"
                ));
            }
        }
        Ok(true)
    }
}

fn key(transaction: u64, succeeded: bool) -> String {
    format!("mark-{transaction}-{}", if succeeded { "success" } else { "failure" })
}
