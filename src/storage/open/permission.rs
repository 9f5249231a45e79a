//! Explains why this process may not use its directory: which directory, which user, and the command that fixes it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::process::{getegid, geteuid};

/// Why the directory `data` cannot be used: the operation, and the system's error.
pub fn explain(doing: &str, data: &Path, error: &io::Error) -> String {
    let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let said = format!("cannot {doing} the storage directory {} as user {user}: {error}", data.display());
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => remedy(&data, (user, group)),
        io::ErrorKind::ReadOnlyFilesystem => Some("mount a writable file system there".to_owned()),
        _ => None,
    };
    match remedy {
        Some(remedy) => format!("{said}. {remedy}; or choose another directory with --data"),
        None => format!("{said}; choose another directory with --data"),
    }
}

/// The command that gives the user the directory, or the parent where it will be created.
fn remedy(data: &Path, (user, group): (u32, u32)) -> Option<String> {
    let (directory, owner) = nearest_existing(data)?;
    let shown = directory.display();
    Some(match owner == user {
        true => format!("{shown} does not let its owner write: chmod u+rwx {shown}"),
        false => format!(
            "{shown} belongs to user {owner}. To give it to user {user}: chown {user}:{group} {shown} (for a container: the \
             directory on the host that is mounted there)"
        ),
    })
}

/// The directory, or its nearest existing ancestor, and the owner.
fn nearest_existing(data: &Path) -> Option<(PathBuf, u32)> {
    data.ancestors().find_map(|path| Some((path.to_owned(), fs::metadata(path).ok()?.uid())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error said "set its permissions", but not of which directory, for whom, or how.
    #[test]
    fn what_mends_it_is_a_line_to_paste() {
        let folder = tempfile::tempdir().expect("a folder");
        let (parent, owner) = (folder.path().display(), geteuid().as_raw());
        let data = folder.path().join("a/storage.db");
        let foreign = remedy(&data, (6660, 6661)).expect("a remedy");
        assert!(foreign.contains(&format!("{parent} belongs to user {owner}")), "{foreign}");
        assert!(foreign.contains(&format!("chown 6660:6661 {parent} ")), "{foreign}");
        let own = remedy(&data, (owner, 0)).expect("a remedy");
        assert!(own.ends_with(&format!("chmod u+rwx {parent}")), "{own}");
    }

    #[test]
    fn the_directory_is_named_from_the_root_and_the_user_by_number() {
        let explain = |kind: io::ErrorKind| explain("create", Path::new("storage.db"), &kind.into());
        let here = std::env::current_dir().expect("a directory").join("storage.db");
        let user = geteuid().as_raw();
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::Other]
        {
            let said = explain(kind);
            let begin = format!("cannot create the storage directory {} as user {user}: ", here.display());
            assert!(said.starts_with(&begin) && said.ends_with("another directory with --data"), "{said}");
        }
        assert!(explain(io::ErrorKind::PermissionDenied).contains("chmod u+rwx"));
        assert!(!explain(io::ErrorKind::Other).contains("chown"));
    }
}
