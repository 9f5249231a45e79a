//! What a cluster is to hold in the end: each write with the version that the node gave it, and of each key the latest.

use std::{collections::BTreeMap, time::SystemTime};

use serde_json::{Value, json};

use crate::harness::{Node, cluster::Cluster, http::Request, wait_until};

/// The rows of a table, as they were acknowledged.
pub struct Model {
    table: String,
    rows: BTreeMap<String, (String, Option<Value>)>,
}

impl Model {
    pub fn new(table: &str) -> Self {
        Self { table: table.to_owned(), rows: BTreeMap::new() }
    }

    pub fn put(&mut self, node: &Node, key: &str, value: impl Into<Value>) {
        self.write(node, vec![(key.to_owned(), Some(value.into()))]);
    }

    /// Deletes a key, whether it is there or not.
    pub fn delete(&mut self, node: &Node, key: &str) {
        self.write(node, vec![(key.to_owned(), None)]);
    }

    /// Writes many at once; those without a value are deleted.
    pub fn write(&mut self, node: &Node, writes: Vec<(String, Option<Value>)>) {
        let operation = |(key, value): &(String, Option<Value>)| match value {
            Some(value) => json!({ "op": "put", "key": key, "value": value }),
            None => json!({ "op": "delete", "key": key, "force": true }),
        };
        let body: Value = writes.iter().map(operation).collect();
        let request = Request::new("POST", &format!("/{}/batch", self.table)).body(body.to_string());
        let results = node.send(&request).expect(200).json();
        let results = results["results"].as_array().expect("results").clone();
        assert_eq!(results.len(), writes.len());
        for ((key, value), result) in writes.into_iter().zip(results) {
            let version = result["version"].as_str().unwrap_or_else(|| panic!("no version: {result}"));
            let known = self.rows.get(&key).map_or("", |(version, _)| version);
            if version > known {
                self.rows.insert(key, (version.to_owned(), value));
            }
        }
    }

    /// How many keys are to be there.
    pub fn live(&self) -> usize {
        self.rows.values().filter(|(_, value)| value.is_some()).count()
    }

    /// Looks whether each node that runs holds just this.
    pub fn expect_on(&self, cluster: &Cluster) {
        let live =
            |(key, (_, value)): (&String, &(String, Option<Value>))| Some((key.clone(), value.clone()?));
        let expected: Value = Value::Object(self.rows.iter().filter_map(live).collect());
        for node in cluster.running() {
            let held = node.get(&format!("/{}/store", self.table)).expect(200).json();
            if held != expected {
                let differing: Vec<_> = self
                    .rows
                    .iter()
                    .filter(|(key, (_, value))| held.get(key) != value.as_ref())
                    .take(20)
                    .collect();
                panic!("{} does not hold what was written: {differing:?}", node.address());
            }
        }
    }
}

/// Waits until writes get later timestamps than those before, on whichever node of this machine.
pub fn next_instant() {
    let begun = SystemTime::now();
    wait_until("the clock goes on", crate::harness::DEADLINE, || {
        SystemTime::now().duration_since(begun).is_ok_and(|passed| passed.as_millis() > 2)
    });
}
