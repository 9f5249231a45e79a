//! `List`: the keys of a table, page by page as the client reads them, so that memory stays flat for tables of any size.

use std::sync::Arc;

use futures_util::{Stream, stream};
use tonic::Status;

use super::{consistency, table, value};
use crate::{
    core::{
        access::{Right, Touched},
        name::{Key, TableName},
    },
    error::{Error, Result},
    grpc::{
        proto::dynarust::v1::{Entry, ListRequest, ListResponse},
        request::Caller,
        status,
    },
    http::routes::listing::{parse_cursor, render_cursor, unreadable},
    node::{Node, Page, Range, strong::Consistency},
};

/// Most keys of a message.
const PAGE_ROWS: usize = 1000;

/// A running listing.
pub struct Listing {
    node: Arc<Node>,
    table: TableName,
    /// The range that remains.
    range: Range,
    /// Keys that may still be sent; `None` for all.
    left: Option<u64>,
    keys_only: bool,
    consistency: Consistency,
    is_incomplete: bool,
    is_ended: bool,
}

impl Listing {
    /// The listing that a request asks for, once this node may serve it.
    ///
    /// # Errors
    /// `BadName`, `BadRequest`, `NotGranted`, `NoQuorum`, `NotReady`.
    pub async fn begin(node: Arc<Node>, caller: &Caller, request: ListRequest) -> Result<Self> {
        let table = table(&request.table)?;
        caller.principal.check(Right::Read, Touched::Keys(&table, &request.prefix))?;
        let consistency = consistency(request.consistency)?;
        let after = Some(request.page_token).filter(|token| !token.is_empty());
        let after = after.map(|token| parse_token(&token, &request.prefix)).transpose()?;
        node.before_read(&table, consistency).await?;
        Ok(Self {
            node,
            table,
            range: Range {
                prefix: request.prefix,
                start: request.start,
                end: request.end,
                after,
                reverse: request.reverse,
            },
            left: Some(request.limit).filter(|limit| *limit > 0),
            keys_only: request.keys_only,
            consistency,
            is_incomplete: false,
            is_ended: false,
        })
    }

    /// Its messages. If some keys cannot be read, all others are sent, and then an error: an incomplete listing never looks like a complete
    /// one.
    pub fn into_stream(self) -> impl Stream<Item = std::result::Result<ListResponse, Status>> + Send {
        stream::try_unfold(self, |mut listing| async move {
            match listing.next().await {
                Ok(page) => Ok(page.map(|page| (page, listing))),
                Err(error) => Err(status::of(&error)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<ListResponse>> {
        if self.is_ended {
            return if self.is_incomplete { Err(unreadable(&self.table)) } else { Ok(None) };
        }
        let rows_max =
            self.left.map_or(PAGE_ROWS, |left| usize::try_from(left).unwrap_or(usize::MAX).min(PAGE_ROWS));
        let Page { rows, more, incomplete } = self.read(rows_max).await?;
        self.is_incomplete |= incomplete;
        self.left = self.left.map(|left| left.saturating_sub(rows.len() as u64));
        self.is_ended = !more || self.left == Some(0);
        let (keys, entries): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        if let Some(last) = keys.into_iter().next_back() {
            self.range.after = Some(last);
        }
        let next = self.range.after.as_ref().filter(|_| more).map(render_cursor);
        Ok(Some(ListResponse { entries, next_page_token: next.unwrap_or_default() }))
    }

    async fn read(&self, rows_max: usize) -> Result<Page<(Key, Entry)>> {
        if self.keys_only {
            let page = self.node.keys(&self.table, &self.range, rows_max, self.consistency).await?;
            let entry = |key: Key| {
                let entry = Entry { key: key.as_str().to_owned(), ..Entry::default() };
                (key, entry)
            };
            return Ok(Page {
                rows: page.rows.into_iter().map(entry).collect(),
                more: page.more,
                incomplete: page.incomplete,
            });
        }
        let page = self.node.rows(&self.table, &self.range, rows_max, self.consistency).await?;
        let rows = page.rows.into_iter().map(|row| {
            let entry =
                value::entry(&row.key, Some(&row.entry.value), row.entry.timestamp, row.entry.expires_at_ms);
            (row.key, entry)
        });
        Ok(Page { rows: rows.collect(), more: page.more, incomplete: page.incomplete })
    }
}

/// The last key of the listing before.
fn parse_token(token: &str, prefix: &str) -> Result<Key> {
    let key = parse_cursor(token).ok().filter(|key| key.as_str().starts_with(prefix));
    key.ok_or_else(|| {
        let quoted: String = token.chars().take(100).collect();
        Error::BadRequest(format!(
            "page_token {quoted:?} is not one of this listing: send next_page_token of its last message, and the same prefix"
        ))
    })
}
