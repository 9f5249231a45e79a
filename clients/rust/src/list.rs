//! Listings of a table, page by page, and reads of many keys.

use std::{
    fmt,
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
};

use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use hyper::Method;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor},
};

use crate::{entry::Entry, error::Result, path, request::Repeat, table::Table};

/// Keys of a page by default.
const PAGE_KEYS: usize = 1000;
/// Most keys of a page.
const PAGE_KEYS_MAX: usize = 10_000;

/// A listing of a table, in the order of the keys' bytes: say which keys, then begin one of its streams. A listing is not a snapshot: keys
/// that are written meanwhile may or may not be in it. It survives the node that it began with, if the client has others.
#[derive(Clone)]
pub struct Listing {
    table: Table,
    query: Vec<(&'static str, String)>,
    page_keys: usize,
    limit: Option<usize>,
}

/// A page of a listing.
#[derive(Clone, Debug)]
pub struct Page<I> {
    /// The keys, or keys with entries.
    pub items: Vec<I>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

impl Listing {
    pub(crate) fn new(table: Table) -> Self {
        Self { table, query: Vec::new(), page_keys: PAGE_KEYS, limit: None }
    }

    /// Only keys that begin with this.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        self.query("prefix", prefix)
    }

    /// Only keys at or above this one.
    #[must_use]
    pub fn start(self, key: impl Into<String>) -> Self {
        self.query("start", key)
    }

    /// Only keys below this one.
    #[must_use]
    pub fn end(self, key: impl Into<String>) -> Self {
        self.query("end", key)
    }

    /// From the highest key down.
    #[must_use]
    pub fn reverse(self) -> Self {
        self.query("reverse", "true")
    }

    /// Reads what one node has of a strong table, without asking the leader.
    #[must_use]
    pub fn stale(self) -> Self {
        self.query("read", "stale")
    }

    /// Ends after so many keys.
    #[must_use]
    pub fn limit(mut self, keys: usize) -> Self {
        self.limit = Some(keys);
        self
    }

    /// How many keys one request asks for. Default 1000, at most 10,000.
    #[must_use]
    pub fn page_size(mut self, keys: usize) -> Self {
        self.page_keys = keys.clamp(1, PAGE_KEYS_MAX);
        self
    }

    fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// How many keys there are. A limit does not count.
    ///
    /// # Errors
    /// As any request.
    pub async fn count(&self) -> Result<u64> {
        self.table.ask_count(&self.query).await
    }

    /// The keys.
    pub fn keys(&self) -> BoxStream<'static, Result<String>> {
        self.stream(|listing, cursor| async move { listing.page_of_keys(cursor.as_deref()).await })
    }

    /// The keys with their values.
    pub fn entries<T: DeserializeOwned + Send + 'static>(
        &self,
    ) -> BoxStream<'static, Result<(String, Entry<T>)>> {
        self.stream(|listing, cursor| async move { listing.page_of_entries(cursor.as_deref()).await })
    }

    /// One page of keys, from the start or after the page that gave `cursor`.
    ///
    /// # Errors
    /// As any request.
    pub async fn page_of_keys(&self, cursor: Option<&str>) -> Result<Page<String>> {
        self.page("keys", cursor, &[]).await
    }

    /// One page of keys with their values, from the start or after the page that gave `cursor`.
    ///
    /// # Errors
    /// As any request; `Decode` if a value is not a `T`.
    pub async fn page_of_entries<T: DeserializeOwned>(
        &self,
        cursor: Option<&str>,
    ) -> Result<Page<(String, Entry<T>)>> {
        let page: Page<Pairs<Entry<T>>> = self.pages("store", cursor, &[("meta", "true")]).await?;
        let Page { items, next } = page;
        Ok(Page { items: items.into_iter().flat_map(|pairs| pairs.0).collect(), next })
    }

    async fn page<I: DeserializeOwned>(
        &self,
        below: &str,
        cursor: Option<&str>,
        more: &[(&'static str, &str)],
    ) -> Result<Page<I>> {
        let page: Page<Vec<I>> = self.pages(below, cursor, more).await?;
        Ok(Page { items: page.items.into_iter().flatten().collect(), next: page.next })
    }

    async fn pages<I: DeserializeOwned>(
        &self,
        below: &str,
        cursor: Option<&str>,
        more: &[(&'static str, &str)],
    ) -> Result<Page<I>> {
        let mut query = self.query.clone();
        query.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let page_keys = self.limit.map_or(self.page_keys, |limit| limit.clamp(1, self.page_keys));
        query.push(("limit", page_keys.to_string()));
        query.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
        let path = path::with_query(&self.table.path(below), &query);
        let client = &self.table.client;
        let answer = client.ask(&client.request(Method::GET, path)).await?;
        let next = answer.header("dynarust-next-cursor").map(str::to_owned);
        Ok(Page { items: vec![answer.json()?], next })
    }

    fn stream<I, F, P>(&self, page: F) -> BoxStream<'static, Result<I>>
    where
        I: Send + 'static,
        F: Fn(Self, Option<String>) -> P + Send + 'static,
        P: Future<Output = Result<Page<I>>> + Send + 'static,
    {
        let listing = self.clone();
        let limit = self.limit.unwrap_or(usize::MAX);
        // The outer `Some` is that there is a page, the inner its cursor.
        let pages = stream::try_unfold(Some(None), move |next| {
            let page = next.map(|cursor| page(listing.clone(), cursor));
            async move {
                let Some(page) = page else { return Ok(None) };
                let Page { items, next } = page.await?;
                Ok(Some((stream::iter(items.into_iter().map(Ok)), next.map(Some))))
            }
        });
        pages.try_flatten().take(limit).boxed()
    }
}

/// Members of an object, in its order.
pub struct Pairs<V>(pub Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Members<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Members<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Pairs<V>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// A read of many keys, not sent yet.
#[must_use = "a read does nothing until it is awaited"]
pub struct Many<T> {
    table: Table,
    keys: Vec<String>,
    value: PhantomData<fn() -> T>,
}

impl<T> Many<T> {
    pub(crate) fn new(table: Table, keys: Vec<String>) -> Self {
        Self { table, keys, value: PhantomData }
    }
}

impl<T: DeserializeOwned + 'static> IntoFuture for Many<T> {
    type Output = Result<Vec<(String, Entry<T>)>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let client = &self.table.client;
            let request = client.request(Method::POST, self.table.path("keys")).query("meta", "true");
            let request = request.json(&self.keys).repeat(Repeat::Read);
            Ok(client.ask(&request).await?.json::<Pairs<Entry<T>>>()?.0)
        })
    }
}
