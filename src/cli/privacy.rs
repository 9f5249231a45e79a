//! Protects files from other users of the machine: those that a node creates, and those with its secrets.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rustix::{fs::Mode, process::umask};
use tracing::warn;

use crate::config::Config;

/// Makes all files that this process creates from now on accessible to its own user only.
pub fn restrict_new_files() {
    umask(Mode::RWXG | Mode::RWXO);
}

/// Warns about each file with a secret that other users of this machine can read.
pub fn warn_about_exposed_secrets(config: &Config) {
    for file in
        [&config.cluster_secret_file, &config.tls_key].into_iter().flatten().filter(|file| is_exposed(file))
    {
        warn!(file = %file.display(), "others on this machine can read this secret: chmod 600, and give it to the user of the node");
    }
}

/// Whether others can read a file, or its group can. The group of root's files may, as that is how services get access to secrets.
fn is_exposed(file: &Path) -> bool {
    let Ok(metadata) = fs::metadata(file) else { return false };
    let read_by = if metadata.uid() == 0 { 0o004 } else { 0o044 };
    metadata.mode() & read_by != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_others_can_read_is_exposed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        fs::write(&file, "secret").expect("written");
        for (mode, exposed) in [(0o600, false), (0o400, false), (0o644, true), (0o604, true)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(is_exposed(&file), exposed, "{mode:o}");
        }
        assert!(!is_exposed(&folder.path().join("absent")));
    }
}
