//! A table that is open: the names of its keys, and their changes as they happen. The watch begins first, so that nothing is missed between.
//!
//! Where all keys are known already, as after a connection that was lost, the watch goes on where it ended, and nothing is listed, unless the node no
//! longer knows what has changed since.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::sleep};
use tonic::{Code, Request, Status, Streaming};

use super::{
    Teller, convert,
    link::{Kv, call},
    proto::{
        Consistency, ListRequest, WatchRequest, WatchResponse, watch_request::Target, watch_response::Event,
    },
};
use crate::{
    message::{Change, Message},
    model::listing::KEYS_MAX,
};

/// The pause before a watch that has failed begins again: the first, and the longest. It doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Why a table is followed no longer.
enum End {
    /// The node left changes out.
    Resync,
    /// It failed.
    Failed(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

impl End {
    /// Whether it may go right when it is tried again, and why it ended.
    fn told(self) -> (bool, String) {
        let status = match self {
            Self::Resync => return (true, "changes came faster than they could be shown".to_owned()),
            Self::Failed(status) => status,
        };
        let may_retry = matches!(
            status.code(),
            Code::Unavailable
                | Code::Unknown
                | Code::Internal
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::ResourceExhausted
        );
        (may_retry, convert::failure(&status))
    }
}

/// The pause after so many failures in a row.
fn pause(attempt: u32) -> Duration {
    (PAUSE_MIN * 2_u32.pow(attempt.min(10))).min(PAUSE_MAX)
}

/// What is open.
pub struct Opened {
    /// The number of the listing.
    pub generation: u64,
    /// The table.
    pub table: String,
    /// What its keys begin with.
    pub prefix: String,
    /// How often in a row it failed before.
    pub attempt: u32,
    /// Where the changes go on, if all keys are known already.
    pub goes_on: Option<String>,
    /// Has the connection looked after.
    pub nudge: Arc<Notify>,
}

impl Opened {
    /// Lists and follows until something fails, which it tells.
    pub async fn run(self, kv: Kv, teller: Teller) {
        let Err(end) = self.open(kv, &teller).await else { return };
        let missed = matches!(end, End::Resync);
        let (may_retry, why) = end.told();
        if may_retry {
            // If the connection is gone, this ends with it.
            self.nudge.notify_one();
            sleep(pause(self.attempt)).await;
        }
        teller.tell(Message::Broken { generation: self.generation, why, may_retry, missed }).await;
    }

    async fn open(&self, kv: Kv, teller: &Teller) -> Result<(), End> {
        if let Some(cursor) = &self.goes_on {
            match self.go_on(kv.clone(), cursor.clone()).await {
                Ok((first, changes)) => {
                    self.tell(first, teller).await?;
                    return self.follow(changes, teller).await;
                }
                // The node no longer knows what came since, or, being of another version, cannot read the cursor.
                Err(status) if matches!(status.code(), Code::OutOfRange | Code::InvalidArgument) => {}
                Err(status) => return Err(status.into()),
            }
            teller.tell(Message::Anew { generation: self.generation }).await;
        }
        let changes = self.watch(kv.clone(), String::new()).await?;
        tokio::try_join!(self.list(kv, teller), self.follow(changes, teller))?;
        Ok(())
    }

    /// A watch from a cursor on, and what it begins with: that it cannot go on is said there.
    async fn go_on(
        &self,
        kv: Kv,
        cursor: String,
    ) -> Result<(WatchResponse, Streaming<WatchResponse>), Status> {
        let mut changes = self.watch(kv, cursor).await?;
        match changes.message().await? {
            Some(first) => Ok((first, changes)),
            None => Err(ended()),
        }
    }

    async fn watch(&self, mut kv: Kv, cursor: String) -> Result<Streaming<WatchResponse>, Status> {
        let target = (!self.prefix.is_empty()).then(|| Target::Prefix(self.prefix.clone()));
        let watch = WatchRequest { table: self.table.clone(), target, cursor, ..WatchRequest::default() };
        // It has no deadline: it lasts as long as the table is open.
        call(kv.watch(Request::new(watch))).await
    }

    async fn list(&self, mut kv: Kv, teller: &Teller) -> Result<(), End> {
        let generation = self.generation;
        let request = ListRequest {
            table: self.table.clone(),
            prefix: self.prefix.clone(),
            limit: KEYS_MAX as u64,
            keys_only: true,
            // What this node has not got yet, the watch brings.
            consistency: Consistency::Stale.into(),
            ..ListRequest::default()
        };
        let mut pages = call(kv.list(Request::new(request))).await?;
        let mut is_cut = false;
        loop {
            let page = match pages.message().await {
                Ok(Some(page)) => page,
                Ok(None) => break,
                // The node has listed all that it can read. Trying again would not help, and changes still come.
                Err(status) if status.code() == Code::DataLoss => {
                    let why = convert::failure(&status);
                    teller.tell(Message::Incomplete { generation, why }).await;
                    return Ok(());
                }
                Err(status) => return Err(status.into()),
            };
            is_cut = !page.next_page_token.is_empty();
            let keys = page.entries.into_iter().map(|entry| Arc::from(entry.key)).collect();
            teller.tell(Message::Keys { generation, keys }).await;
        }
        teller.tell(Message::Listed { generation, is_cut }).await;
        Ok(())
    }

    async fn follow(&self, mut changes: Streaming<WatchResponse>, teller: &Teller) -> Result<(), End> {
        while let Some(message) = changes.message().await? {
            self.tell(message, teller).await?;
        }
        Err(ended().into())
    }

    async fn tell(&self, message: WatchResponse, teller: &Teller) -> Result<(), End> {
        let generation = self.generation;
        let change = match message.event {
            Some(Event::Updated(entry)) => convert::entry(entry).map(Change::Set),
            Some(Event::Deleted(deletion)) => Some(Change::Deleted {
                key: deletion.key.into(),
                version: deletion.version,
                timestamp_ms: deletion.timestamp_ms,
                expired: deletion.expired,
            }),
            Some(Event::Resync(_)) => return Err(End::Resync),
            Some(Event::Synced(_) | Event::Position(_)) | None => None,
        };
        if let Some(change) = change {
            teller.tell(Message::Changed { generation, change }).await;
        }
        if !message.cursor.is_empty() {
            teller.tell(Message::Position { generation, cursor: message.cursor }).await;
        }
        Ok(())
    }
}

fn ended() -> Status {
    Status::unavailable("the node has ended the watch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow() {
        let pauses: Vec<_> = (0..8).map(|attempt| pause(attempt).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }
}
