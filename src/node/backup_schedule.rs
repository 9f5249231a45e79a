//! Backups that a node makes by itself, each with the last one as its base, in a directory of its own by the time of its making:
//! `2026-11-28T17-30-00Z`. The newest few stay. An older one goes only after a newer one was read to its end and found sound.
//!
//! A directory of another node, or of another program, is neither a base nor removed. Whatever fails is logged and counted, and tried again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, UNIX_EPOCH},
};

use tokio::{runtime::Handle, time::sleep};
use tracing::{error, info, warn};

use super::Node;
use crate::{
    error::{Error, Result},
    storage::backup::{
        content::Manifest,
        recipient::Recipient,
        seal::{DataKey, Secret},
        write::{self, Base, Options, Writer, Written},
    },
};

/// The longest wait after a failure before the next attempt.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// When backups are made, and where.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The directory of all of them. Created if it is missing.
    pub directory: PathBuf,
    /// The time from one to the next.
    pub every: Duration,
    /// How many stay.
    pub keep: usize,
    /// A file with the key that encrypts them.
    pub key_file: Option<PathBuf>,
    /// Whom they are encrypted for, in the place of that.
    pub recipient: Option<Recipient>,
}

/// What the scheduled backups of a node came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduledBackups {
    /// The last one that was made and found sound.
    pub last: Option<LastBackup>,
    /// How many were made since the start.
    pub made: u64,
    /// How many failed since the start.
    pub failed: u64,
    /// Why the last attempt failed; `None` if it did not.
    pub failure: Option<String>,
}

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastBackup {
    /// The name of its directory.
    pub name: String,
    /// When its rows were so, in Unix milliseconds.
    pub made_ms: u64,
    /// Its id; `None` if it was made before the start.
    pub id: Option<String>,
}

/// The figures of a running schedule.
#[derive(Debug, Default)]
pub struct Figures(Mutex<Option<ScheduledBackups>>);

impl Figures {
    fn lock(&self) -> MutexGuard<'_, Option<ScheduledBackups>> {
        // Replaced field by field, each of which is valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut ScheduledBackups)) {
        change(self.lock().get_or_insert_default());
    }
}

impl Node {
    /// What the scheduled backups came to; `None` if there is no schedule.
    pub fn scheduled_backups(&self) -> Option<ScheduledBackups> {
        self.backups.lock().clone()
    }
}

/// Makes backups as long as the node runs.
pub async fn run(node: Weak<Node>, schedule: Schedule) {
    if let Some(node) = node.upgrade() {
        let last = node.own_backups(&schedule.directory).ok().and_then(|mut names| names.pop());
        let last = last.and_then(|name| Some(LastBackup { made_ms: time_of(&name)?, name, id: None }));
        node.backups.update(|figures| figures.last = last);
    }
    // The next backup goes on from the last one, which without a private key only this can open. After a restart the first one is a full one.
    let mut last_key = None;
    loop {
        let Some(running) = node.upgrade() else { return };
        let pause = running.until_due(&schedule);
        // Do not keep the node while asleep.
        drop(running);
        sleep(pause).await;
        let Some(running) = node.upgrade() else { return };
        match running.back_up(&schedule, last_key.clone()).await {
            Ok(key) => last_key = key,
            Err(why) => {
                error!(%why, "the scheduled backup failed");
                running.backups.update(|figures| {
                    figures.failed += 1;
                    figures.failure = Some(why.to_string());
                });
                drop(running);
                sleep(RETRY_MAX.min(schedule.every)).await;
            }
        }
    }
}

impl Node {
    /// How long it is to the next backup.
    fn until_due(&self, schedule: &Schedule) -> Duration {
        let last = self.scheduled_backups().and_then(|figures| figures.last);
        let since = last.map(|last| Duration::from_millis(self.now_ms().saturating_sub(last.made_ms)));
        since.map_or(Duration::ZERO, |since| schedule.every.saturating_sub(since))
    }

    /// Makes one backup, reads it, and removes those that are too many.
    /// `last_key`: the data key of the last one. Returns that of this one.
    async fn back_up(
        self: &Arc<Self>,
        schedule: &Schedule,
        last_key: Option<DataKey>,
    ) -> Result<Option<DataKey>> {
        let (node, schedule) = (self.clone(), schedule.clone());
        let runtime = Handle::current();
        self.environment()
            .run(move || {
                let options = Options {
                    base: None,
                    secret: schedule.key_file.as_deref().map(Secret::key_file).transpose()?,
                    recipient: schedule.recipient.clone(),
                    base_key: last_key,
                };
                fs::create_dir_all(&schedule.directory)
                    .map_err(|e| Error::io(format_args!("creating {}", schedule.directory.display()), &e))?;
                let name = name_of(node.now_ms());
                let path = schedule.directory.join(&name);
                remove_left(&schedule.directory)?;
                let (written, key) = node.make_backup(&path, &schedule, options, &runtime)?;
                info!(backup = %path.display(), id = written.id, written = written.bytes_written, "backup made");
                node.backups.update(|figures| {
                    figures.made += 1;
                    figures.failure = None;
                    figures.last =
                        Some(LastBackup { name, made_ms: written.made_ms, id: Some(written.id.clone()) });
                });
                node.remove_old(&schedule)?;
                Ok(key)
            })
            .await
    }

    /// Makes a backup, with a base if there is one and not too much differs from it.
    fn make_backup(
        self: &Arc<Self>,
        path: &Path,
        schedule: &Schedule,
        options: Options,
        runtime: &Handle,
    ) -> Result<(Written, Option<DataKey>)> {
        let (options, base) = self.open_base(schedule, options)?;
        match self.write_backup(path, &options, &base, runtime) {
            Err(Error::TooMany(why)) if options.base.is_some() => {
                warn!(why, "the last backup cannot be the base of the next, which is a full one");
                let full = Options { base: None, ..options };
                self.write_backup(path, &full, &full.open_base()?, runtime)
            }
            made => made,
        }
    }

    fn write_backup(
        self: &Arc<Self>,
        path: &Path,
        options: &Options,
        base: &Base,
        runtime: &Handle,
    ) -> Result<(Written, Option<DataKey>)> {
        let mut writer = Writer::create(path, options, base)?;
        let mut lines = runtime.block_on(self.backup())?;
        while let Some(bytes) = runtime.block_on(lines.next())? {
            writer.take(&bytes)?;
        }
        // Only what can be read is a backup, and gets the name of one.
        let complete = writer.complete()?;
        complete.check()?;
        let key = complete.key().cloned();
        Ok((complete.publish()?, key))
    }

    /// The newest backup that can be a base. One that cannot be read is left for people to look at, and the next one is a full one.
    fn open_base(&self, schedule: &Schedule, options: Options) -> Result<(Options, Base)> {
        let newest = self.own_backups(&schedule.directory)?.pop();
        let can_open = options.recipient.is_none() || options.base_key.is_some();
        let base = newest.filter(|_| can_open).map(|name| schedule.directory.join(name));
        let options = Options { base, ..options };
        match options.open_base() {
            Ok(base) => Ok((options, base)),
            Err(why) => {
                warn!(%why, "the last backup cannot be the base of the next, which is a full one");
                let options = Options { base: None, ..options };
                let base = options.open_base()?;
                Ok((options, base))
            }
        }
    }

    /// The names of the backups of this node in a directory, the oldest first.
    fn own_backups(&self, directory: &Path) -> Result<Vec<String>> {
        let failed = |e: io::Error| Error::io(format_args!("reading {}", directory.display()), &e);
        let entries = match fs::read_dir(directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if time_of(&name).is_none() {
                continue;
            }
            let manifest = Manifest::read(&directory.join(&name));
            if manifest.is_ok_and(|manifest| manifest.node == self.id().to_string()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove_old(&self, schedule: &Schedule) -> Result<()> {
        let names = self.own_backups(&schedule.directory)?;
        for name in &names[..names.len().saturating_sub(schedule.keep)] {
            let old = schedule.directory.join(name);
            let failed = |e| Error::io(format_args!("removing the old backup {}", old.display()), &e);
            // A crash in the middle leaves nothing that looks like a backup, and the next one removes the rest.
            let partial = write::partial_path(&old);
            fs::rename(&old, &partial).and_then(|()| fs::remove_dir_all(&partial)).map_err(failed)?;
            info!(backup = %old.display(), "old backup removed");
        }
        Ok(())
    }
}

/// Removes what crashes have left of backups that were being made or removed.
fn remove_left(directory: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::io(format_args!("reading {}", directory.display()), &e);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_left = name.strip_suffix(write::PARTIAL).and_then(|name| name.strip_suffix('.'));
        if is_left.and_then(time_of).is_none() {
            continue;
        }
        let path = entry.path();
        match write::remove_partial(&path) {
            Ok(true) => info!(path = %path.display(), "the rest of an incomplete backup was removed"),
            Ok(false) => {}
            // It takes room, but no backup fails for it.
            Err(why) => warn!(%why, "the rest of an incomplete backup cannot be removed"),
        }
    }
    Ok(())
}

/// The name of a backup that is made at an instant (Unix milliseconds): the time in UTC, without colons, which some file systems refuse.
fn name_of(at_ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(at_ms);
    humantime::format_rfc3339_seconds(at).to_string().replace(':', "-")
}

/// The instant of a name; `None` if it is not that of a backup.
fn time_of(name: &str) -> Option<u64> {
    let (date, time) = name.split_once('T')?;
    let at = humantime::parse_rfc3339(&format!("{date}T{}", time.replace('-', ":"))).ok()?;
    let at_ms = u64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    (name_of(at_ms) == name).then_some(at_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_when_and_other_names_are_left_alone() {
        let at_ms = 1_795_800_600_000;
        assert_eq!(name_of(at_ms), "2026-11-27T17-30-00Z");
        assert_eq!(time_of("2026-11-27T17-30-00Z"), Some(at_ms));
        for other in ["", "monday", "2026-11-27T17:30:00Z", "2026-11-27T17-30-00Z.partial", "2026-11-27"] {
            assert_eq!(time_of(other), None, "{other}");
        }
    }
}
