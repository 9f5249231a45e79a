//! `dynarust.v1.Kv`: keys and values, changes as they happen, transactions, and what there is to know of the node. A request is checked as
//! REST checks it, and answered by the same calls of [`Node`].

mod list;
mod reports;
mod txn;
mod value;
mod watch;
mod write;

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use tonic::{Request, Response, Status};

use self::{list::Listing, watch::Watch};
use super::{
    proto::dynarust::v1::{
        ClusterRequest, ClusterResponse, DeleteRequest, DeleteResponse, GetRequest, GetResponse, ListRequest,
        ListResponse, SetRequest, SetResponse, TableMode, TablesRequest, TablesResponse, TxnRequest,
        TxnResponse, WatchRequest, WatchResponse, WriteConcern,
        kv_server::{Kv, KvServer},
    },
    request::Caller,
    status,
};
use crate::{
    core::{
        access::{Right, Touched},
        name::{Key, TableName},
    },
    error::{Error, Result},
    node::{Mode, Node, Write, Written, strong::Consistency},
};

/// The table of requests that name none: a strong one.
const DEFAULT_TABLE: &str = "kv";

/// The service over a node.
pub struct NodeKv {
    node: Arc<Node>,
}

impl NodeKv {
    /// The server of the service. Its messages are limited where they arrive.
    pub fn server(node: Arc<Node>) -> KvServer<Self> {
        KvServer::new(Self { node }).max_decoding_message_size(usize::MAX)
    }

    async fn read(&self, caller: &Caller, request: GetRequest) -> Result<GetResponse> {
        let (table, key) = (table(&request.table)?, key(&request.key)?);
        caller.principal.check(Right::Read, Touched::Key(&table, &key))?;
        self.node.before_read(&table, consistency(request.consistency)?).await?;
        let entry = self.node.get(&table, &key)?;
        let entry =
            entry.ok_or_else(|| Error::NotFound(format!("no key {:?} in table {table}", key.as_str())))?;
        // Only whether there is memory for the answer: that is reserved when it is written.
        drop(caller.connection.budget.reserve(entry.value.as_str().len() as u64)?);
        let entry = value::entry(&key, Some(&entry.value), entry.timestamp, entry.expires_at_ms);
        Ok(GetResponse { entry: Some(entry) })
    }

    async fn set_key(&self, caller: &Caller, request: SetRequest) -> Result<SetResponse> {
        let (table, wanted) = (table(&request.table)?, wanted(&request)?);
        let concern = request.write_concern;
        let write = write::set(&self.node, request)?;
        self.write(caller, &table, write, wanted, concern).await.map(write::was_set)
    }

    async fn delete_key(&self, caller: &Caller, request: DeleteRequest) -> Result<DeleteResponse> {
        let (table, wanted) = (table(&request.table)?, by_default(&request.table));
        let concern = request.write_concern;
        let write = write::delete(request)?;
        self.write(caller, &table, write, wanted, concern).await.map(write::was_deleted)
    }

    async fn write(
        &self,
        caller: &Caller,
        table: &TableName,
        write: Write,
        wanted: Wanted,
        concern: Option<WriteConcern>,
    ) -> Result<Written> {
        caller.principal.check_write(table, &write)?;
        caller.connection.budget.admit_write()?;
        let new = self.mode_if_new(caller, table, wanted).await?;
        let concern = concern.map(write::concern).transpose()?;
        if concern.is_some() && self.node.writes_strong(table, new).await {
            return Err(Error::BadRequest(format!(
                "write_concern: table {table} is strong, and each of its writes is answered when a majority of the voters holds it: \
                 leave it out"
            )));
        }
        let written = self.node.write_in(table, write, new).await?;
        if let Some(concern) = concern {
            self.node.replicated(written.timestamp, concern).await?;
        }
        Ok(written)
    }

    /// The mode in which a write makes its table, if it makes it and wants one.
    ///
    /// # Errors
    /// `WrongMode` if the table is there in another; `NotGranted`.
    async fn mode_if_new(&self, caller: &Caller, table: &TableName, wanted: Wanted) -> Result<Option<Mode>> {
        match (wanted, self.node.mode_of(table).await) {
            (Wanted::Any, _) => Ok(None),
            (Wanted::Eventual, Some(Mode::Strong)) => Err(Error::WrongMode(format!(
                "table {table} is strong, and the request asks for an eventual one: leave table_mode out, or name another table"
            ))),
            (Wanted::Eventual, _) => Ok(Some(Mode::Eventual)),
            (Wanted::Unnamed, Some(Mode::Eventual)) => Err(Error::WrongMode(format!(
                "the request names no table, and the table without a name, {table}, is not strong, as something else has made it: name a \
                 table; {table} too may be named"
            ))),
            (Wanted::Strong, Some(Mode::Eventual)) => Err(Error::WrongMode(format!(
                "table {table} is eventual, and the request asks for a strong one: leave table_mode out, or name another table"
            ))),
            (Wanted::Strong | Wanted::Unnamed | Wanted::StrongIfNew, Some(_)) => Ok(None),
            (Wanted::Strong, None) => {
                // As for the request of REST that makes a table.
                caller.principal.check(Right::Write, Touched::Keys(table, ""))?;
                Ok(Some(Mode::Strong))
            }
            (Wanted::Unnamed | Wanted::StrongIfNew, None) => Ok(Some(Mode::Strong)),
        }
    }

    async fn transact(&self, caller: &Caller, request: TxnRequest) -> Result<TxnResponse> {
        let transaction = txn::parse(&self.node, request)?;
        caller.principal.check_transaction(&transaction)?;
        caller.connection.budget.admit_write()?;
        let default = table("")?;
        if txn::makes(&transaction, &default) && self.node.mode_of(&default).await.is_none() {
            self.node.create_strong(default).await?;
        }
        let (success, failure) = (txn::kinds(&transaction.success), txn::kinds(&transaction.failure));
        let (succeeded, results) = self.node.transact(transaction).await?;
        Ok(txn::render(succeeded, if succeeded { success } else { failure }, results))
    }
}

/// The mode that a write wants its table to have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The one it has, or that new tables get.
    Any,
    Eventual,
    Strong,
    /// For no name is the default table, which is strong.
    Unnamed,
    /// The one it has: it is the default table, by its name. A new one is strong.
    StrongIfNew,
}

fn wanted(request: &SetRequest) -> Result<Wanted> {
    const KNOWN: &str = "TABLE_MODE_DEFAULT, TABLE_MODE_EVENTUAL and TABLE_MODE_STRONG";
    Ok(match known(request.table_mode, "table_mode", KNOWN)? {
        TableMode::Default => by_default(&request.table),
        TableMode::Eventual => Wanted::Eventual,
        TableMode::Strong => Wanted::Strong,
    })
}

/// What a write to a table of this name wants that asks for no mode.
fn by_default(name: &str) -> Wanted {
    match name {
        "" => Wanted::Unnamed,
        DEFAULT_TABLE => Wanted::StrongIfNew,
        _ => Wanted::Any,
    }
}

/// The value of an enumeration, of which a client may send any number.
fn known<E: TryFrom<i32>>(number: i32, field: &str, names: &str) -> Result<E> {
    E::try_from(number)
        .map_err(|_| Error::BadRequest(format!("{field}: {number} is unknown; there are {names}")))
}

fn consistency(number: i32) -> Result<Consistency> {
    use super::proto::dynarust::v1::Consistency as Named;
    let names = "CONSISTENCY_LINEARIZABLE and CONSISTENCY_STALE";
    Ok(match known(number, "consistency", names)? {
        Named::Linearizable => Consistency::Linearizable,
        Named::Stale => Consistency::Stale,
    })
}

/// The table of a request.
fn table(name: &str) -> Result<TableName> {
    TableName::parse(if name.is_empty() { DEFAULT_TABLE } else { name })
}

fn key(name: &str) -> Result<Key> {
    Key::parse(name)
}

type Answered<T> = std::result::Result<Response<T>, Status>;

/// The response, or the status of the error.
fn answered<T>(outcome: Result<T>) -> Answered<T> {
    outcome.map(Response::new).map_err(|error| status::of(&error))
}

fn caller<T>(request: &Request<T>) -> std::result::Result<Caller, Status> {
    Caller::of(request).map_err(|error| status::of(&error))
}

type Messages<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for NodeKv {
    async fn get(&self, request: Request<GetRequest>) -> Answered<GetResponse> {
        answered(self.read(&caller(&request)?, request.into_inner()).await)
    }

    async fn set(&self, request: Request<SetRequest>) -> Answered<SetResponse> {
        answered(self.set_key(&caller(&request)?, request.into_inner()).await)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answered<DeleteResponse> {
        answered(self.delete_key(&caller(&request)?, request.into_inner()).await)
    }

    type ListStream = Messages<ListResponse>;

    async fn list(&self, request: Request<ListRequest>) -> Answered<Self::ListStream> {
        let caller = caller(&request)?;
        let listing = Listing::begin(Arc::clone(&self.node), &caller, request.into_inner()).await;
        answered(listing.map(|listing| Box::pin(listing.into_stream()) as Self::ListStream))
    }

    type WatchStream = Messages<WatchResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Answered<Self::WatchStream> {
        let caller = caller(&request)?;
        let watch = Watch::begin(&self.node, &caller, request.into_inner()).await;
        answered(watch.map(|watch| Box::pin(watch) as Self::WatchStream))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Answered<TxnResponse> {
        answered(self.transact(&caller(&request)?, request.into_inner()).await)
    }

    async fn tables(&self, request: Request<TablesRequest>) -> Answered<TablesResponse> {
        answered(reports::tables(&self.node, &caller(&request)?).await)
    }

    async fn cluster(&self, request: Request<ClusterRequest>) -> Answered<ClusterResponse> {
        answered(reports::cluster(&self.node, &caller(&request)?).await)
    }
}
