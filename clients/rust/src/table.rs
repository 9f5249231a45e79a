//! A table: reads and writes of its keys.

use std::{
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use hyper::Method;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    batch::{Batch, Operation},
    client::Client,
    entry::{Entry, Version, Written},
    error::{Error, Result},
    list::{Listing, Many},
    path,
    request::Request,
    topic::Topic,
    watch::Watching,
    write::Write,
};

const JSON: &str = "application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

/// A table of a client. Cheap to clone.
#[derive(Clone)]
pub struct Table {
    pub(crate) client: Client,
    pub(crate) name: String,
}

#[derive(Serialize)]
struct Body<'a, T: ?Sized> {
    value: &'a T,
}

#[derive(Deserialize)]
struct Count {
    count: u64,
}

#[derive(Deserialize)]
struct Deleted {
    deleted: u64,
}

impl Table {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self { client, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads a key: `None` if it is absent. The value is of any type that its JSON fits.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Get<T> {
        Get { table: self.clone(), key: key.to_owned(), is_stale: false, value: PhantomData }
    }

    /// Writes a value.
    pub fn put(&self, key: &str, value: &(impl Serialize + ?Sized)) -> Write<Written> {
        Write::new(self.client.clone(), Method::PUT, self.key_path(key)).json(&Body { value }, JSON)
    }

    /// Changes parts of a value by a merge patch (RFC 7396): members replace members, `null` removes one. The key must be present.
    pub fn patch(&self, key: &str, patch: &(impl Serialize + ?Sized)) -> Write<Written> {
        Write::new(self.client.clone(), Method::PATCH, self.key_path(key)).json(patch, MERGE_PATCH)
    }

    /// Changes parts of a value by a JSON Patch (RFC 6902), a list of operations. The key must be present.
    pub fn json_patch(&self, key: &str, operations: &(impl Serialize + ?Sized)) -> Write<Written> {
        Write::new(self.client.clone(), Method::PATCH, self.key_path(key)).json(operations, JSON_PATCH)
    }

    /// Sets when a value expires, and leaves the value as it is.
    pub fn expire(&self, key: &str, ttl: Duration) -> Write<Written> {
        self.touch(key).ttl(ttl)
    }

    /// Leaves a value as it is, for the settings of the write: [`Write::ttl`] or [`Write::expires_at`].
    pub fn touch(&self, key: &str) -> Write<Written> {
        Write::new(self.client.clone(), Method::PATCH, self.key_path(key))
    }

    /// Deletes a key, and gives the version of the deletion; `None` if the key was absent.
    pub fn delete(&self, key: &str) -> Write<Option<Version>> {
        Write::new(self.client.clone(), Method::DELETE, self.key_path(key))
    }

    /// Reads the keys that are named, in their order; absent ones are left out. At most 10,000.
    pub fn get_many<T>(&self, keys: impl IntoIterator<Item = impl Into<String>>) -> Many<T> {
        Many::new(self.clone(), keys.into_iter().map(Into::into).collect())
    }

    /// Runs operations in one commit.
    pub fn batch(&self, operations: impl IntoIterator<Item = Operation>) -> Batch {
        Batch::new(self.clone(), operations.into_iter().collect())
    }

    /// A batch that is JSON already: a list of operations, or one a line.
    pub fn batch_request(&self, operations: impl Into<Bytes>) -> Request {
        self.client.request(Method::POST, self.path("batch")).body(operations)
    }

    /// Lists keys, or keys with their values.
    pub fn list(&self) -> Listing {
        Listing::new(self.clone())
    }

    /// Counts all keys. For a part of them: `list().prefix("a").count()`.
    ///
    /// # Errors
    /// As any request.
    pub async fn count(&self) -> Result<u64> {
        self.list().count().await
    }

    /// Deletes all keys that begin with `prefix`, piece by piece, and says how many.
    ///
    /// # Errors
    /// As any request; `Invalid` for an empty prefix.
    pub async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        if prefix.is_empty() {
            return Err(Error::Invalid("an empty prefix means all keys: use delete_all".into()));
        }
        self.delete_many("prefix", prefix).await
    }

    /// Deletes all keys, piece by piece, and says how many.
    ///
    /// # Errors
    /// As any request.
    pub async fn delete_all(&self) -> Result<u64> {
        self.delete_many("confirm", &self.name).await
    }

    async fn delete_many(&self, parameter: &'static str, value: &str) -> Result<u64> {
        let request = self.client.request(Method::DELETE, self.path("")).query(parameter, value);
        let answer = self.client.ask(&request).await?;
        Ok(answer.json::<Deleted>()?.deleted)
    }

    /// Follows all keys.
    pub fn watch(&self) -> Watching {
        Watching::new(self.client.clone(), vec![Topic::Table(self.name.clone())])
    }

    /// Follows one key.
    pub fn watch_key(&self, key: &str) -> Watching {
        Watching::new(self.client.clone(), vec![Topic::Key(self.name.clone(), key.to_owned())])
    }

    /// Follows the keys that begin with `prefix`.
    pub fn watch_prefix(&self, prefix: &str) -> Watching {
        Watching::new(self.client.clone(), vec![Topic::Prefix(self.name.clone(), prefix.to_owned())])
    }

    /// The path of the table, or of something below it.
    pub(crate) fn path(&self, below: &str) -> String {
        let table = path::segment(&self.name);
        if below.is_empty() { format!("/{table}") } else { format!("/{table}/{below}") }
    }

    fn key_path(&self, key: &str) -> String {
        self.path(&format!("key/{}", path::segment(key)))
    }

    pub(crate) async fn ask_count(&self, query: &[(&'static str, String)]) -> Result<u64> {
        let path = path::with_query(&self.path("count"), query);
        let answer = self.client.ask(&self.client.request(Method::GET, path)).await?;
        Ok(answer.json::<Count>()?.count)
    }
}

/// A read of one key, not sent yet.
#[must_use = "a read does nothing until it is awaited"]
pub struct Get<T> {
    table: Table,
    key: String,
    is_stale: bool,
    value: PhantomData<fn() -> T>,
}

impl<T> Get<T> {
    /// Reads what this node has of a strong table, without asking the leader.
    pub fn stale(mut self) -> Self {
        self.is_stale = true;
        self
    }
}

impl<T: DeserializeOwned + 'static> IntoFuture for Get<T> {
    type Output = Result<Option<Entry<T>>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let client = &self.table.client;
            let path = self.table.key_path(&self.key);
            let mut request = client.request(Method::GET, path).query("meta", "true");
            if self.is_stale {
                request = request.query("read", "stale");
            }
            match client.ask_if_there(&request).await? {
                Some(answer) => answer.json().map(Some),
                None => Ok(None),
            }
        })
    }
}
