//! Which tables are strong, for a node that may not know yet: one that joins, or that was down while a table was made.
//!
//! A member learns of a strong table when it applies the entry that makes it. Before that, it would take writes to the
//! table into an eventual one of that name, and what it answered would not be in the strong table. So a node asks each
//! other node as soon as it is linked with it, and keeps the answer durably. And after a start, the *first write* to a
//! table that the node does not have waits until the node knows; the same holds for a linearizable read.
//!
//! A node that has asked before a table was made is told: whoever makes a table tells all nodes that it has a link with, and each tells its
//! own, before the answer. So a node that can be reached over others knows too. One that can not, because it is cut off or about to
//! establish its very first link, is not waited for.
//!
//! Why it waits, and is not refused: whoever has only eventual tables must not notice. A node on its own never waits, and
//! others wait for one round trip, as a link comes up within milliseconds. A node whose peers are down goes on as soon
//! as it has tried all their addresses once, and after [`WAIT_MAX`] in any case. It takes writes then, because eventual
//! tables are there for that. So what it takes into the table of a name that is strong elsewhere is set aside when it
//! learns of it, as after a cut ([`make_strong`]).
//!
//! *Whom to believe.* Nodes that start together ask each other, and none knows anything. If each waited until another
//! knows, all would wait for ever. So an answer says what is behind it ([`Knowledge`]): a node that has asked all its
//! other peers once, and reached none that knew more, has said all it can.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tracing::warn;

use super::{
    group::Inner,
    rpc::{Call, CallAnswer, GroupId},
    start::KNOWN_MAX,
};
use crate::{
    core::{clock::NodeId, name::TableName},
    error::{Error, Result},
    replication::link::registry::LinkState,
    storage::Store,
};

/// How long after its start a node lets first writes wait, whatever it reaches: links come up within much less, and a
/// node that packets do not reach should not hold up a client for longer.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The pause before a node is asked again that is about to know more, or was too busy.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The note that this node has learned of strong tables from others, maybe before it takes part in the group.
const NOTE: &str = "strong/learned";

/// How much stands behind an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Knowledge {
    /// It is still asking others: ask again.
    Partial,
    /// It has asked everyone else it reaches, and they may have been as new as it is.
    OfThoseReached,
    /// It knows, from nodes that knew or because it was the first.
    Full,
}

/// The answer of a node that was asked for the strong tables.
#[derive(Debug, Serialize, Deserialize)]
pub struct Catalogue {
    /// The group that it has claimed.
    pub group: Option<GroupId>,
    /// The tables.
    pub tables: Vec<TableName>,
    /// What is behind it.
    pub knowledge: Knowledge,
}

/// What this node knows of the strong tables.
pub struct Known {
    /// Whether first writes no longer wait. It stays so.
    is_known: AtomicBool,
    /// Those that wait go on in the order in which they came.
    waiting: Notify,
    /// The links that answered, and what was behind the last answer. Only of links that stand.
    answers: std::sync::Mutex<Vec<(Arc<LinkState>, Knowledge)>>,
}

impl Known {
    /// `is_known`: there is nobody to ask.
    pub fn new(is_known: bool) -> Self {
        Self { is_known: AtomicBool::new(is_known), waiting: Notify::new(), answers: Default::default() }
    }

    /// Whether first writes wait no longer.
    pub fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }

    /// Returns when first writes need not wait, which is soon.
    pub async fn wait(&self) {
        // It is woken by what comes after this, polled or not.
        let woken = self.waiting.notified();
        if !self.is_known() {
            woken.await;
        }
    }

    fn set(&self) {
        self.is_known.store(true, Ordering::Release);
        self.waiting.notify_waiters();
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Vec<(Arc<LinkState>, Knowledge)>> {
        // Replaced item by item.
        self.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What is behind what this node says to `asker`, which it need not ask itself. `answers`: what was behind those of the
/// nodes that it is linked with; `None` before the first.
fn knowledge(
    is_known: bool,
    is_dialing: bool,
    answers: impl IntoIterator<Item = (NodeId, Option<Knowledge>)>,
    asker: NodeId,
) -> Knowledge {
    let mut others = answers.into_iter().filter(|(node, _)| *node != asker);
    match is_known {
        true => Knowledge::Full,
        false if is_dialing || others.any(|(_, answer)| answer.is_none()) => Knowledge::Partial,
        false => Knowledge::OfThoseReached,
    }
}

/// Whether a node need ask no further.
fn is_settled(is_dialing: bool, answers: &[Option<Knowledge>]) -> bool {
    answers.contains(&Some(Knowledge::Full))
        || !is_dialing
            && answers
                .iter()
                .all(|answer| matches!(answer, Some(Knowledge::OfThoseReached | Knowledge::Full)))
}

/// Makes a table strong. Rows that this node has taken into an eventual table of that name, cut off or before it knew,
/// move to another table: they were acknowledged, and the strong table cannot have them.
///
/// # Errors
/// Those of the storage.
pub fn make_strong(store: &Store, table: &TableName) -> Result<()> {
    loop {
        match store.make_strong(table) {
            Err(Error::WrongMode(_)) => {
                let (aside, rows) = store.set_eventual_rows_aside(table)?;
                warn!(%table, %aside, rows, "a strong table was made while this node was cut off: its eventual rows moved to another table");
            }
            made => return made,
        }
    }
}

impl Inner {
    /// The answer to a node that asks for the strong tables.
    pub(super) fn catalogue(&self, asker: NodeId) -> Result<Catalogue> {
        let replication = &self.parts.replication;
        // First, so that what is learned meanwhile is not claimed.
        let knowledge =
            knowledge(self.known.is_known(), replication.is_dialing_first(), self.link_answers(), asker);
        let tables = self.parts.store.strong_tables().into_iter().collect();
        Ok(Catalogue { group: self.claimed()?, tables, knowledge })
    }

    /// The nodes that this one is linked with, and what was behind their last answers.
    fn link_answers(&self) -> Vec<(NodeId, Option<Knowledge>)> {
        let links = self.parts.replication.links();
        let mut answers = self.known.answers();
        answers.retain(|(answered, _)| links.iter().any(|link| Arc::ptr_eq(link, answered)));
        let of = |link: &Arc<LinkState>| {
            let answer = answers.iter().find(|(answered, _)| Arc::ptr_eq(link, answered));
            answer.map(|(_, knowledge)| *knowledge)
        };
        links.iter().map(|link| (link.node, of(link))).collect()
    }

    fn note_answer(&self, link: &Arc<LinkState>, knowledge: Knowledge) {
        let mut answers = self.known.answers();
        answers.retain(|(answered, _)| !Arc::ptr_eq(link, answered));
        answers.push((link.clone(), knowledge));
    }

    /// Makes the tables of another node's answer strong here, durably.
    pub(super) async fn learn(&self, from: NodeId, catalogue: Catalogue) -> Result<()> {
        let store = &self.parts.store;
        if let (Some(own), Some(theirs)) = (self.claimed()?, catalogue.group)
            && own != theirs
            && self.has_opened()?
        {
            warn!(%from, "a member belongs to another group of strong tables: its tables are not taken for strong");
            return Ok(());
        }
        let new: Vec<_> = catalogue.tables.into_iter().filter(|table| !store.is_strong(table)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let incarnation = store.incarnation();
        store.set_note(NOTE, &[])?;
        let made = store.clone();
        let environment = store.environment().clone();
        environment.run(move || new.iter().try_for_each(|table| make_strong(&made, table))).await?;
        store.durable(incarnation).await
    }

    /// Takes a table for strong, as another node says, and tells the nodes that this one has links with. They may have asked this one before
    /// the table was made, and may have no link with the node that made it.
    ///
    /// # Errors
    /// Those of the storage.
    pub(super) async fn take_made(
        &self,
        from: NodeId,
        group: GroupId,
        table: TableName,
        is_relayed: bool,
    ) -> Result<()> {
        let is_news = !self.parts.store.is_strong(&table);
        let group = (group != GroupId(0)).then_some(group);
        let made = Catalogue { group, tables: vec![table.clone()], knowledge: Knowledge::Full };
        self.learn(from, made).await?;
        // Not if it is a table of another group.
        if (is_news || !is_relayed) && self.parts.store.is_strong(&table) {
            self.tell_made(&table, Some(from)).await;
        }
        Ok(())
    }

    /// Tells the nodes that this one has links with that a table is strong. `told_by`: who said so, if it is not this node that made it. Each
    /// node tells its own once, so all that can be reached know in the end.
    pub(super) async fn tell_made(&self, table: &TableName, told_by: Option<NodeId>) {
        let others = self.linked().filter(|node| Some(*node) != told_by).collect::<Vec<_>>();
        let told = others.into_iter().map(|node| {
            let made = Call::Made(table.clone(), told_by.is_some());
            self.call(node, made, KNOWN_MAX)
        });
        join_all(told).await;
    }

    /// Whether this node has learned of strong tables from others: so it may have some and no log of the group yet.
    pub(super) fn has_learned(&self) -> Result<bool> {
        Ok(self.parts.store.note(NOTE)?.is_some())
    }

    /// Asks a node until it has said all it can, or its link has ended.
    async fn ask_for_tables(self: Arc<Self>, link: Arc<LinkState>) {
        let is_linked = || self.parts.replication.links().iter().any(|one| Arc::ptr_eq(one, &link));
        while is_linked() && !self.is_stopping() {
            match self.call(link.node, Call::Tables, ANSWER_MAX).await {
                Ok(CallAnswer::Tables(catalogue)) => {
                    let knowledge = catalogue.knowledge;
                    match self.learn(link.node, catalogue).await {
                        Ok(()) => {
                            self.note_answer(&link, knowledge);
                            if knowledge != Knowledge::Partial {
                                return;
                            }
                        }
                        Err(error) => warn!(%error, "a strong table of another node is not known here yet"),
                    }
                }
                // Its strong tables are kept by another backend.
                Ok(_) => {
                    self.note_answer(&link, Knowledge::OfThoseReached);
                    return;
                }
                // Its storage may fail for now, or it does not serve yet.
                Err(_) => {}
            }
            sleep(ASK_AGAIN).await;
        }
    }
}

/// Asks every node that this one is linked with, once a link, and says when first writes need wait no longer.
pub(super) async fn keep(inner: Weak<Inner>) {
    let until = Instant::now() + WAIT_MAX;
    let Some(mut changes) = inner.upgrade().map(|inner| inner.parts.replication.link_changes()) else {
        return;
    };
    let mut asked: Vec<Arc<LinkState>> = Vec::new();
    let mut asking = JoinSet::new();
    loop {
        {
            let Some(inner) = inner.upgrade() else { return };
            changes.mark_unchanged();
            let links = inner.parts.replication.links();
            asked.retain(|link| links.iter().any(|one| Arc::ptr_eq(one, link)));
            for link in links {
                if !asked.iter().any(|one| Arc::ptr_eq(one, &link)) {
                    asked.push(link.clone());
                    asking.spawn(inner.clone().ask_for_tables(link));
                }
            }
            if !inner.known.is_known() {
                let answers: Vec<_> = inner.link_answers().into_iter().map(|(_, answer)| answer).collect();
                let is_dialing = inner.parts.replication.is_dialing_first();
                if is_settled(is_dialing, &answers) || Instant::now() >= until {
                    inner.known.set();
                }
            }
        }
        let next = async {
            tokio::select! {
                biased;
                changed = changes.changed() => changed.is_ok(),
                Some(_) = asking.join_next(), if !asking.is_empty() => true,
            }
        };
        let is_waiting = inner.upgrade().is_some_and(|inner| !inner.known.is_known());
        let goes_on = if is_waiting { timeout_at(until, next).await.unwrap_or(true) } else { next.await };
        if !goes_on {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Knowledge::*, *};

    const ASKER: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    #[test]
    fn nodes_that_start_together_tell_each_other_all_they_can() {
        assert_eq!(knowledge(false, false, [(ASKER, None)], ASKER), OfThoseReached);
        assert_eq!(knowledge(false, false, [(ASKER, None), (OTHER, None)], ASKER), Partial);
        assert_eq!(knowledge(false, false, [(ASKER, None), (OTHER, Some(Partial))], ASKER), OfThoseReached);
        assert_eq!(knowledge(false, true, [], ASKER), Partial, "it may reach one that knows");
        assert_eq!(knowledge(true, true, [(OTHER, None)], ASKER), Full);
    }

    #[test]
    fn a_node_asks_on_until_one_knows_or_all_have_said_what_they_can() {
        assert!(is_settled(false, &[]), "nobody is reached");
        assert!(!is_settled(true, &[]));
        assert!(!is_settled(true, &[Some(OfThoseReached)]), "another may know");
        assert!(is_settled(true, &[None, Some(Full)]));
        assert!(!is_settled(false, &[Some(OfThoseReached), Some(Partial)]));
        assert!(!is_settled(false, &[Some(OfThoseReached), None]));
        assert!(is_settled(false, &[Some(OfThoseReached), Some(OfThoseReached)]));
    }

    #[tokio::test]
    async fn first_writes_wait_until_it_is_known() {
        Known::new(true).wait().await;
        let known = Known::new(false);
        assert!(futures_util::FutureExt::now_or_never(known.wait()).is_none());
        known.set();
        known.wait().await;
    }
}
