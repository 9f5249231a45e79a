//! Puts commits into etcd, and finds out what became of them.
//!
//! Where etcd does not say whether it committed, this puts another commit in the same place, an empty one. Either that succeeds, and the
//! one before can never; or it does not, and the commit that was first tells by its id whose it is. Until then nothing else is sent.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::{
    follower::CALL_MAX,
    gateway::{Channel, Etcd, Failure, TOO_LARGE},
    layout::{Commit, Layout},
    messages::{Done, Ranged, Txn},
    proposer::{EFFECTS_MAX, RETRY},
    replica::{NotApplied, Place, Replica},
};
use crate::{
    core::{clock::NodeId, strong::entry::Effect},
    error::{Error, Result},
};

/// Where etcd has not answered for this long, it is asked something harmless before it is given a commit: a commit that it does not
/// answer would keep the client from knowing.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// How long that question may take, and a commit.
pub const ASK_MAX: Duration = Duration::from_secs(1);
const COMMIT_MAX: Duration = Duration::from_secs(2);
/// What etcd takes in a request, unless told otherwise.
const ETCD_REQUEST_BYTES: u64 = 1_572_864;
/// What etcd says where it takes no writes.
const NO_SPACE: &str = "space exceeded";
/// Commits that come too late in a row, before the other nodes are asked to wait a moment.
const LATE_MAX: u32 = 2;

/// What became of a commit.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is in the order of writes, at this revision.
    Done(u64),
    /// It is not and never will be, because the head is of this revision.
    Late(u64),
    /// Nobody knows any more.
    Untold,
}

impl Fate {
    fn of(done: &Done) -> Self {
        let head = || done.responses.first().and_then(|read| read.response_range.as_ref()?.kvs.first());
        match done.succeeded {
            true => Self::Done(done.header.revision.0),
            false => Self::Late(head().map_or(0, |head| head.mod_revision.0)),
        }
    }
}

/// Puts commits into etcd, one at a time.
pub struct Committer {
    replica: Arc<Replica>,
    channel: Channel,
    /// When etcd last answered.
    answered: Option<Instant>,
    /// Commits that came too late in a row.
    late: u32,
}

impl Committer {
    /// Commits to this etcd what comes after this node's place.
    pub fn new(replica: &Arc<Replica>, etcd: &Etcd) -> Self {
        Self { replica: replica.clone(), channel: Channel::new(etcd), answered: None, late: 0 }
    }

    /// A commit after a place.
    ///
    /// # Errors
    /// `Io` if there is no randomness.
    pub fn new_commit(&self, place: Place, effects: Vec<Effect>) -> Result<Commit> {
        let store = &self.replica.store;
        let id = store.environment().random()?;
        Ok(Commit::new(id, place.id, store.node(), place.latest_hlc, effects))
    }

    /// Puts a commit after a place.
    ///
    /// # Errors
    /// `Unreachable` and `Refused`: nothing was done.
    pub async fn put(
        &mut self,
        layout: &Layout,
        cluster: u64,
        place: Place,
        commit: &Commit,
    ) -> std::result::Result<Fate, Failure> {
        let fate = match self.send(&layout.commit(commit, place.revision, self.waiting())).await {
            Err(Failure::Unknown(why)) => self.find_out(layout, cluster, place, commit, &why).await,
            Err(Failure::Refused(why)) if why.contains(NO_SPACE) => {
                self.find_out_without_writing(layout, place, commit, why).await?
            }
            sent => Fate::of(&sent?),
        };
        Ok(self.counted(fate))
    }

    /// Makes sure that nothing has come after a place.
    ///
    /// # Errors
    /// As `put`.
    pub async fn confirm(&mut self, layout: &Layout, place: Place) -> std::result::Result<Fate, Failure> {
        match self.send(&layout.confirm(place.revision, self.waiting())).await {
            // It changes nothing, whether it was done or not.
            Err(Failure::Unknown(why)) => Err(Failure::Unreachable(why)),
            sent => Ok(self.counted(Fate::of(&sent?))),
        }
    }

    /// This node, if the others are to let it go first.
    fn waiting(&self) -> Option<NodeId> {
        (self.late >= LATE_MAX).then(|| self.replica.store.node())
    }

    fn counted(&mut self, fate: Fate) -> Fate {
        self.late = if matches!(fate, Fate::Late(_)) { self.late + 1 } else { 0 };
        fate
    }

    /// Finds out what became of a commit that etcd did not answer: puts an empty one in its place.
    async fn find_out(
        &mut self,
        layout: &Layout,
        cluster: u64,
        place: Place,
        commit: &Commit,
        why: &str,
    ) -> Fate {
        warn!(why, "etcd did not say whether it committed a write: finding out");
        while self.replica.failure().is_none() {
            let Ok(empty) = self.new_commit(place, Vec::new()) else { break };
            match self.send(&layout.commit(&empty, place.revision, None)).await.map(|done| Fate::of(&done)) {
                Ok(Fate::Done(revision)) => {
                    info!("it did not");
                    self.apply(cluster, Commit { revision, ..empty }).await;
                    return Fate::Late(revision);
                }
                Ok(Fate::Late(head)) if self.until_applied(head).await.is_ok() => {
                    let fate = self.came_after(place, commit, head);
                    info!(?fate, "found out");
                    return fate;
                }
                Ok(_) | Err(_) => sleep(RETRY).await,
            }
        }
        Fate::Untold
    }

    /// Finds out what became of a commit that etcd refused because its space has run out: it says so too of one that it has committed, if the
    /// space ran out just then. Whatever became of it is decided, and etcd still lets itself be read.
    ///
    /// # Errors
    /// `Refused`: it is not done, and never will be.
    async fn find_out_without_writing(
        &mut self,
        layout: &Layout,
        place: Place,
        commit: &Commit,
        why: String,
    ) -> std::result::Result<Fate, Failure> {
        while self.replica.failure().is_none() {
            match self.send(&layout.confirm(place.revision, None)).await.map(|done| Fate::of(&done)) {
                Ok(Fate::Done(_)) => return Err(Failure::Refused(why)),
                Ok(Fate::Late(head)) if self.until_applied(head).await.is_ok() => {
                    return Ok(self.came_after(place, commit, head));
                }
                Ok(_) | Err(_) => sleep(RETRY).await,
            }
        }
        Ok(Fate::Untold)
    }

    /// What became of a commit after a place, once everything up to `head` is applied.
    fn came_after(&self, place: Place, commit: &Commit, head: u64) -> Fate {
        match self.replica.came_after(place.revision, commit.head.id) {
            Some(Some(revision)) => Fate::Done(revision),
            Some(None) => Fate::Late(head),
            None => Fate::Untold,
        }
    }

    /// Applies a commit of this node.
    pub async fn apply(&self, cluster: u64, commit: Commit) {
        match self.replica.apply(cluster, &commit).await {
            Ok(()) => {}
            // The follower does it.
            Err(NotApplied::Gap | NotApplied::Rewound) => drop(self.until_applied(commit.revision).await),
            Err(NotApplied::Failed(error)) => {
                error!(%error, revision = commit.revision, "a commit to strong tables cannot be applied");
            }
        }
    }

    /// Returns once everything up to a revision is applied here.
    ///
    /// # Errors
    /// `Unreachable` if that takes too long.
    pub async fn until_applied(&self, revision: u64) -> std::result::Result<(), Failure> {
        match self.replica.has_applied(revision, Instant::now() + CALL_MAX).await {
            true => Ok(()),
            false => Err(Failure::Unreachable("this node does not see what other nodes commit".into())),
        }
    }

    /// Asks etcd for the head, if it has not answered lately.
    ///
    /// # Errors
    /// `Unreachable`.
    pub async fn ask_first(&mut self, layout: &Layout) -> std::result::Result<(), Failure> {
        if self.answered.is_some_and(|answered| answered.elapsed() < QUIET_MAX) {
            return Ok(());
        }
        let until = Instant::now() + ASK_MAX;
        match self.channel.call::<Ranged>("/v3/kv/range", &layout.read_head(true), until).await {
            Ok(_) => {
                self.answered = Some(Instant::now());
                Ok(())
            }
            Err(failure) => Err(Failure::Unreachable(failure.to_string())),
        }
    }

    async fn send(&mut self, txn: &Txn) -> std::result::Result<Done, Failure> {
        let sent = self.channel.call("/v3/kv/txn", txn, Instant::now() + COMMIT_MAX).await;
        self.answered = matches!(sent, Ok(_) | Err(Failure::Refused(_))).then(Instant::now);
        sent
    }
}

/// What a request of so many writes is told that etcd refuses.
pub fn refusal(why: &str, writes: usize) -> Error {
    if why.contains("too many operations") {
        return Error::BadRequest(format!(
            "{writes} writes in one step are more than etcd takes, which keeps the strong tables: at most {EFFECTS_MAX}, unless its \
             --max-txn-ops is raised; send them in several"
        ));
    }
    if why.contains("too large") || why.contains(TOO_LARGE) {
        let what = "request to etcd, which keeps the strong tables (its --max-request-bytes by default),";
        return Error::TooLarge { what, limit: ETCD_REQUEST_BYTES };
    }
    if why.contains(NO_SPACE) {
        return Error::NotReady(
            "etcd, which keeps the strong tables, has no space left, and nothing was written: compact and defragment it, or raise its \
             --quota-backend-bytes, and disarm its alarm"
                .into(),
        );
    }
    Error::NotReady(format!("etcd, which keeps the strong tables, refuses: {why}; nothing was written"))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::TcpListener,
        thread,
    };

    use super::*;
    use crate::replication::strong::etcd::replica::tests::{CLUSTER, commit, open};

    /// An etcd that gives these answers, a status and a body each.
    fn etcd(answers: &'static [(u16, &'static str)]) -> Etcd {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        thread::spawn(move || {
            let mut reader = BufReader::new(listener.accept().expect("a connection").0);
            for (status, body) in answers {
                let mut length = 0;
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    let header = line.to_ascii_lowercase();
                    length = header
                        .strip_prefix("content-length:")
                        .map_or(length, |text| text.trim().parse().expect("a number"));
                    line.clear();
                }
                reader.read_exact(&mut vec![0; length]).expect("a body");
                let head = format!("HTTP/1.1 {status} Because\r\ncontent-length: {}\r\n\r\n", body.len());
                reader.get_mut().write_all((head + body).as_bytes()).expect("is sent");
            }
        });
        Etcd::new(&[address])
    }

    const FULL: (u16, &str) = (429, r#"{"message":"etcdserver: mvcc: database space exceeded","code":8}"#);

    /// etcd gives this answer also to a transaction that it has committed, if its space ran out just then. The write was said not to be done, or
    /// done again.
    #[tokio::test]
    async fn a_commit_that_fills_etcd_is_done_although_etcd_refuses_it() {
        const LATE: &str =
            r#"{"succeeded":false,"responses":[{"response_range":{"kvs":[{"mod_revision":"20"}]}}]}"#;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let replica = Arc::new(open(directory.path()));
        replica.apply(CLUSTER, &commit(1)).await.expect("the next");
        let place = replica.place();
        let put = async |answers: &'static [(u16, &'static str)]| {
            let mut committer = Committer::new(&replica, &etcd(answers));
            committer.put(&Layout::new(CLUSTER), CLUSTER, place, &commit(2)).await
        };
        let there = put(&[FULL, (200, r#"{"succeeded":true}"#)]).await;
        assert!(matches!(&there, Err(Failure::Refused(why)) if why.contains("space")), "{there:?}");
        // The follower sees it, as others do.
        replica.apply(CLUSTER, &commit(2)).await.expect("the next");
        let done = put(&[FULL, (200, LATE)]).await;
        assert!(matches!(done, Ok(Fate::Done(20))), "{done:?}");
        replica.store.close().expect("closes");
    }

    #[test]
    fn what_etcd_refuses_says_what_to_do() {
        let refused = |why: &str| refusal(why, 200);
        let many = refused("etcdserver: too many operations in txn request");
        assert!(
            matches!(&many, Error::BadRequest(why) if why.contains("200 writes") && why.contains("127")),
            "{many}"
        );
        for large in [
            "etcdserver: request is too large",
            "grpc: received message larger than max (2400051 vs. 2097152)",
        ] {
            assert!(matches!(refused(large), Error::TooLarge { .. }), "{large}");
        }
        let full = refused("etcdserver: mvcc: database space exceeded");
        assert!(matches!(&full, Error::NotReady(why) if why.contains("defragment")), "{full}");
    }
}
