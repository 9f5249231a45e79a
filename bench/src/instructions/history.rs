//! What git and the changelog know of earlier counts.

use std::{fs, path::Path, process::Command};

use super::counts::{self, Counts};
use crate::error::{Error, Result};

/// The changelog.
pub fn changelog(root: &Path) -> Result<String> {
    let path = root.join("CHANGELOG.md");
    fs::read_to_string(&path).map_err(|e| Error::io(format_args!("reading {}", path.display()), &e))
}

/// The last counts that were committed before those of `now`, and their commit; `None` where git has none, as in a copy without history.
pub fn before(root: &Path, now: &Counts) -> Result<Option<(String, Counts)>> {
    let Some(commits) = git(root, &["log", "--format=%h", "--", counts::PATH]) else { return Ok(None) };
    for commit in commits.lines() {
        // A commit that removed the file has none.
        let Some(text) = git(root, &["show", &format!("{commit}:{}", counts::PATH)]) else { continue };
        let before = Counts::parse(&text)
            .map_err(|why| Error::Failed(format!("{} at {commit}: {why}", counts::PATH)))?;
        if before.instructions != now.instructions {
            return Ok(Some((commit.to_owned(), before)));
        }
    }
    Ok(None)
}

/// What git prints; `None` where it fails, or is not there.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
