//! What is damaged of a store, found before the engine opens, and what follows: a node that is alone does not start, and one that has
//! peers starts in doubt.

use std::path::Path;

use tracing::{debug, warn};

use crate::{
    error::{Error, Result},
    storage::{
        Options, Peers,
        engine::{
            Engine, doubt,
            log::{
                pages::Pages,
                walk::{self, Damage},
            },
            mark,
        },
        open,
    },
};

/// Opens a store of which nothing is damaged; or, where there are others that hold what this node holds, one that may have lost
/// rows, with a doubt.
///
/// # Errors
/// `StorageDamaged`, and as `engine`.
pub fn whole(options: &Options) -> Result<Engine> {
    let data = &options.data;
    if let Some(why) = find_damage(data)? {
        if !has_peers(options) {
            return Err(Error::StorageDamaged(why));
        }
        // Before the engine opens: what it cannot read it throws away, and finds nothing wrong the next time.
        doubt::write(data, &why)?;
        let mut engine = open::engine(data, options.cache_bytes)?;
        engine.accept_loss();
        return Ok(engine);
    }
    let mut engine = open::engine(data, options.cache_bytes)?;
    match check_end(data, &engine) {
        Err(Error::StorageDamaged(why)) if has_peers(options) => {
            doubt::write(data, &why)?;
            engine.accept_loss();
        }
        checked => checked?,
    }
    Ok(engine)
}

/// What is damaged of what the engine would replay, for people to read; found before the engine opens, which changes the log.
///
/// # Errors
/// `StorageUnusable` for a directory of somebody else's or of another format, `Io`.
pub fn find_damage(data: &Path) -> Result<Option<String>> {
    open::check_ours(data)?;
    let damage = walk_damage(data)?;
    let Some(first) = damage.first() else { return Ok(None) };
    let others = match damage.len() - 1 {
        0 => String::new(),
        1 => " (and 1 more place)".to_owned(),
        others => format!(" (and {others} more places)"),
    };
    Ok(Some(format!("{} is damaged: {first}{others}: {}", data.display(), doubt::MEANING)))
}

/// As `find_damage`, each place by itself, whatever directory it is.
///
/// # Errors
/// `Io`.
pub fn walk_damage(data: &Path) -> Result<Vec<Damage>> {
    let mark = mark::read(data)?;
    if mark == mark::Found::Damaged {
        warn!(data = %data.display(), "the file dynarust.mark is damaged: nobody knows where the log should end");
    }
    let damage = walk::walk(data, mark.mark().map(|mark| mark.position));
    // Not how long it took: what a seed of the simulation leads to is the same each time.
    debug!("the log was tested");
    damage
}

/// Whether there are other nodes that hold what this one holds.
fn has_peers(options: &Options) -> bool {
    let Peers { joins, note, are_in } = options.peers;
    let noted = || {
        let trees = Pages::read(&options.data, |_| {}).ok()?.note(note)?;
        Some(are_in(&trees))
    };
    joins || noted().unwrap_or(false)
}

/// Refuses a store whose log ends before what is known to have been durable.
///
/// # Errors
/// `StorageDamaged`.
pub fn check_end(data: &Path, engine: &Engine) -> Result<()> {
    match engine.lost_bytes() {
        0 => Ok(()),
        lost => Err(Error::StorageDamaged(format!(
            "{data} is damaged: {lost} bytes at the end of its log were lost: {}",
            doubt::MEANING,
            data = data.display()
        ))),
    }
}

/// What can be done about a damaged store.
pub fn remedies(data: &Path) -> String {
    let (data, salvaged) = (data.display(), open::beside(data, "salvaged"));
    format!(
        "It was left in its place. To keep what is left, run DynaRust salvage {data} --into {salvaged}, then start with --data \
         {salvaged}. Or restore a backup over {data}, or start with --set-aside-damaged: that moves the directory to \
         {data}.damaged-<time>, and the node starts empty; in a cluster it gets everything from the others",
        salvaged = salvaged.display()
    )
}
