//! What a node says of its tables and of itself.

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::{
    client::Client,
    error::{Error, Result},
    path,
    request::Repeat,
};

/// How the writes of a table are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Each node takes writes alone, and nodes become equal afterwards.
    Eventual,
    /// A majority agrees on one order.
    Strong,
}

/// A table, as a node lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TableInfo {
    /// Its name.
    pub name: String,
    /// How its writes are ordered.
    pub mode: Mode,
    /// Keys.
    pub keys: u64,
    /// Deleted keys that are still remembered.
    pub tombstones: u64,
    /// A digest of the rows: equal on nodes that hold the same. `None` until it is known.
    pub root: Option<String>,
    /// Whether all keys are counted: a node counts them after its start and when it joins another cluster, and until then `keys` and `tombstones` are of those that are.
    #[serde(default = "is_counted")]
    pub counted: bool,
}

/// What nodes mean that do not say.
fn is_counted() -> bool {
    true
}

/// Whether a node is ready for clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Readiness {
    /// `ready`, or what it is doing instead.
    pub phase: String,
    /// Details for people.
    pub detail: Option<String>,
    /// Whether clients should be sent there.
    #[serde(skip)]
    pub is_ready: bool,
}

#[derive(Serialize)]
struct MakeTable {
    mode: Mode,
}

impl Client {
    /// The tables.
    ///
    /// # Errors
    /// As any request.
    pub async fn tables(&self) -> Result<Vec<TableInfo>> {
        self.ask(&self.request(Method::GET, "/_/tables")).await?.json()
    }

    /// Makes a table of this mode; whether it was not there before. An eventual table needs no making.
    ///
    /// # Errors
    /// `Refused` with `WrongMode` if the table has the other mode.
    pub async fn create_table(&self, name: &str, mode: Mode) -> Result<bool> {
        let path = format!("/_/tables/{}", path::segment(name));
        let request = self.request(Method::PUT, path).json(&MakeTable { mode }).repeat(Repeat::Repeatable);
        Ok(self.ask(&request).await?.success()?.status == StatusCode::CREATED)
    }

    /// Whether the node that answers is ready. A node that is not still answers.
    ///
    /// # Errors
    /// As any request.
    pub async fn readiness(&self) -> Result<Readiness> {
        let request = self.request(Method::GET, "/readyz").without_failover();
        let answer = self.ask(&request).await?;
        let is_ready = match answer.status {
            StatusCode::OK => true,
            StatusCode::SERVICE_UNAVAILABLE => false,
            _ => return Err(answer.success().map_or_else(|error| error, |answer| answer.not_a_node())),
        };
        let readiness: Readiness = serde_json::from_slice(&answer.body).map_err(|_| answer.not_a_node())?;
        Ok(Readiness { is_ready, ..readiness })
    }

    /// The addresses of the members of the cluster that are not known to be gone.
    ///
    /// # Errors
    /// As any request.
    pub async fn members(&self) -> Result<Vec<String>> {
        let answer = self.ask(&self.request(Method::GET, "/membership")).await?;
        answer.json().map_err(|error| match error {
            Error::Decode(why) => Error::Decode(format!("the list of members: {why}")),
            other => other,
        })
    }
}
