//! `dynarust.v1.Kv`: keys and values, changes as they happen, and transactions.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    proto::dynarust::v1::{GetRequest, GetResponse, kv_server},
    request::Caller,
    status,
};
use crate::{
    core::{
        access::{Right, Touched},
        name::{Key, TableName},
    },
    error::{Error, Result},
    node::{Node, strong::Consistency},
};

/// The table of requests that name none.
pub const DEFAULT_TABLE: &str = "kv";

/// The service over a node.
pub struct Kv {
    node: Arc<Node>,
}

impl Kv {
    /// The server of the service.
    pub fn server(node: Arc<Node>) -> kv_server::KvServer<Self> {
        let bytes_max = usize::MAX;
        kv_server::KvServer::new(Self { node }).max_decoding_message_size(bytes_max)
    }

    async fn read(&self, caller: &Caller, request: &GetRequest) -> Result<GetResponse> {
        let table = table(&request.table)?;
        let key = Key::parse(&request.key)?;
        caller.principal.check(Right::Read, Touched::Key(&table, &key))?;
        self.node.before_read(&table, Consistency::Linearizable).await?;
        let entry = self.node.get(&table, &key)?;
        let entry =
            entry.ok_or_else(|| Error::NotFound(format!("no key {:?} in table {table}", key.as_str())))?;
        Ok(GetResponse { json: entry.value.as_str().to_owned() })
    }
}

/// The table of a request.
fn table(name: &str) -> Result<TableName> {
    TableName::parse(if name.is_empty() { DEFAULT_TABLE } else { name })
}

#[tonic::async_trait]
impl kv_server::Kv for Kv {
    async fn get(&self, request: Request<GetRequest>) -> std::result::Result<Response<GetResponse>, Status> {
        let caller = Caller::of(&request).map_err(|error| status::of(&error))?;
        let response = self.read(&caller, request.get_ref()).await;
        response.map(Response::new).map_err(|error| status::of(&error))
    }
}
