//! File systems of one's own, for root on Linux: one whose power can be cut, one that fills up. Elsewhere there are none, and a
//! test that needs one says so and passes.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A mounted file system; unmounted and removed at the end, however that comes.
pub struct Mount {
    directory: tempfile::TempDir,
    options: Vec<String>,
    mounted: bool,
}

impl Mount {
    /// An ext4 of so many MiB in a file, over a loop device. `None` where that cannot be had; says why.
    pub fn ext4(size_mib: u64) -> Option<Self> {
        let directory = directory()?;
        let image = directory.path().join("image");
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(size_mib << 20));
        made.expect("a sparse file in a temporary directory");
        run("mkfs.ext4", &["-q", "-F", &text(&image)])?;
        Self::attached(directory, vec!["-o".to_owned(), "loop".to_owned(), text(&image)])
    }

    /// A tmpfs of so many MiB. `None` where that cannot be had; says why.
    pub fn tmpfs(size_mib: u64) -> Option<Self> {
        let options = ["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "tmpfs"];
        Self::attached(directory()?, options.map(str::to_owned).to_vec())
    }

    fn attached(directory: tempfile::TempDir, options: Vec<String>) -> Option<Self> {
        std::fs::create_dir(directory.path().join("mounted")).expect("a directory in a temporary one");
        let mut mount = Self { directory, options, mounted: false };
        mount.attach()?;
        Some(mount)
    }

    /// The root of the file system.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    /// Changes the size of a tmpfs.
    pub fn resize(&self, size_mib: u64) {
        let size = format!("remount,size={size_mib}m");
        run("mount", &["-o", &size, &text(&self.path())]).expect("a tmpfs takes another size");
    }

    /// Cuts the power, as far as this file system sees: what was not synced never reaches the device.
    pub fn cut_power(&self) {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH. perl, as every Debian has one and Rust needs unsafe code for it.
        let shutdown = r#"
            open(my $root, "<", $ARGV[0]) or die $!;
            my $flags = pack("L", 2);
            ioctl($root, 0x8004587d, $flags) or die $!;
        "#;
        run("perl", &["-e", shutdown, &text(&self.path())]).expect("ext4 can be shut down");
    }

    /// Turns the power on again: mounts anew, from what reached the device.
    pub fn restore_power(&mut self) {
        self.detach();
        self.attach().expect("what was mounted before mounts again");
    }

    fn attach(&mut self) -> Option<()> {
        let path = text(&self.path());
        let arguments: Vec<&str> = self.options.iter().map(String::as_str).chain([path.as_str()]).collect();
        run("mount", &arguments)?;
        self.mounted = true;
        Some(())
    }

    fn detach(&mut self) {
        run("umount", &[&text(&self.path())]).expect("nobody uses it any more");
        self.mounted = false;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily, as a test that failed may have left something open: it goes when that does.
            run("umount", &["--lazy", &text(&self.path())]);
        }
    }
}

fn directory() -> Option<tempfile::TempDir> {
    let user = run("id", &["-u"]).map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    if !cfg!(target_os = "linux") || user.as_deref() != Some("0") {
        eprintln!("NOT TESTED: mounting a file system needs root on Linux");
        return None;
    }
    Some(tempfile::Builder::new().prefix("dynarust-mount-").tempdir().expect("a temporary directory"))
}

/// Runs a program to its end; `None` where it fails, and says how.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    match output {
        Ok(output) if output.status.success() => return Some(output),
        Ok(output) => {
            eprintln!("NOT TESTED: {program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr))
        }
        Err(error) => eprintln!("NOT TESTED: {program}: {error}"),
    }
    None
}

fn text(path: &Path) -> String {
    path.to_str().expect("a temporary path is text").to_owned()
}
