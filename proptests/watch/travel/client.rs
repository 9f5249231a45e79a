//! The client: where it is, what it is told, and what it makes of that.

use super::*;

impl World {
    pub(super) fn restart(&mut self, node: usize) {
        if self.subscription.as_ref().is_some_and(|(at, _)| *at == node) {
            self.subscription = None;
        }
        // What still reads for the client is over first: the directory is locked as long as anybody has the store.
        (0..10).for_each(|_| self.runtime.block_on(async { tokio::task::yield_now().await }));
        let place = &mut self.places[node];
        place.store.take().expect("it is open").close().expect("closes");
        place.store = Some(open(&place.directory, &self.now_ms));
        self.store(node).count_rows().expect("counts");
    }

    pub(super) fn travel(&mut self, node: usize) {
        let start = match (self.cursor, self.resyncing) {
            (Some(cursor), false) => Start::After(cursor),
            _ => Start::Resync,
        };
        self.watch(node, start);
    }

    pub(super) fn watch(&mut self, node: usize, start: Start) {
        self.subscription = None;
        if start == Start::Snapshot {
            self.resyncing = true;
        }
        let subscription = self.runtime.block_on(self.store(node).watch(self.topics.clone(), start));
        self.subscription = Some((node, subscription.expect("watches")));
    }

    pub(super) fn read(&mut self, count: usize) {
        for _ in 0..count {
            let Some((_, subscription)) = self.subscription.as_mut() else { return };
            let next = self.runtime.block_on(async { subscription.next().now_or_never() });
            let Some(notice) = next else {
                self.cursor = subscription.position().or(self.cursor);
                return;
            };
            self.hear(&notice.expect("a subscription goes on"));
        }
    }

    pub(super) fn catch_up(&mut self) {
        let end = Instant::now() + DEADLINE;
        while let Some((_, subscription)) = &self.subscription {
            if subscription.position().is_some() {
                return self.read(usize::MAX);
            }
            assert!(Instant::now() < end, "a subscriber who reads never has all");
            self.read(usize::MAX);
            self.pause();
        }
    }

    /// Lets what the runtime has to do go on.
    pub(super) fn pause(&self) {
        let moment = async { timeout(Duration::from_millis(1), std::future::pending::<()>()).await };
        // Nothing comes of it.
        let _ = self.runtime.block_on(moment);
    }

    pub(super) fn hear(&mut self, notice: &Notice) {
        match notice {
            // Who follows all tables is told of this one too.
            Notice::Change(change) if change.table == wake_table() => {
                self.cursor = change.cursor.or(self.cursor);
            }
            Notice::Change(change) => {
                let key = change.key.to_string();
                match &change.effect {
                    Effect::Updated { value, .. } => self.known.insert(key, value.as_str().to_owned()),
                    Effect::Deleted(_) => self.known.remove(&key),
                };
                self.cursor = change.cursor.or(self.cursor);
            }
            Notice::Position(cursor) => self.cursor = Some(*cursor),
            Notice::Sync(cursor) => {
                self.cursor = Some(*cursor);
                self.resyncing = false;
            }
            Notice::Resync(_) => {
                self.known.clear();
                self.resyncs += 1;
                self.resyncing = true;
            }
            Notice::Incomplete | Notice::Shutdown | Notice::Failed(_) => panic!("{notice:?}"),
        }
    }
}

/// What the client may follow.
pub(super) fn topics() -> impl Strategy<Value = Vec<Topic>> {
    prop_oneof![
        Just(vec![Topic::Prefix(table(), String::new())]),
        Just(vec![Topic::Key(table(), key("k1")), Topic::Key(table(), key("k2"))]),
        Just(vec![Topic::Prefix(table(), "k3".into()), Topic::Key(table(), key("k4"))]),
        Just(vec![Topic::All]),
    ]
}
