//! How much memory the process may use, who says so, and what each part of the node gets of it.
//!
//! The shares are sizes that a node of 1 GiB or more has in full; below that they shrink with the memory. They leave the larger half to
//! what has no fixed size: the engine's table of pages, connections and threads. `cli::memory` watches what is really used.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::core::digest::tree::RECENTS_MAX;

const MIB: u64 = 1 << 20;
/// The budget holds so many of the longest bodies where there is room: a batch takes up to four times its length.
pub const BODIES: u64 = 4;
/// The share of bodies and answers: the cache, the connections, and whatever else runs on the machine have the rest.
const BODIES_SHARE: u64 = 16;
/// What bodies and answers may take of little memory at most, so that they hold the longest body.
const BODIES_SHARE_MAX: u64 = 4;
/// Beyond that much, more serves those only who send much and read nothing.
const BODIES_BYTES_MAX: u64 = 1 << 30;
/// A body and what is made of it must fit into the share of all bodies.
const BODY_SHARE: u64 = 2;
/// What a machine is taken to have that does not say.
const UNKNOWN_BYTES: u64 = 2 << 30;

/// The share of the engine's cache, which takes up to twice that, and its bounds. A million rows, read at random, come no slower with 24 MiB than
/// with 64: what it lacks is in the system's cache of the file.
const CACHE_SHARE: u64 = 16;
const CACHE_BYTES_MIN: u64 = 8 * MIB;
const CACHE_BYTES_MAX: u64 = 24 * MIB;
/// The share of decoded values.
const DECODED_SHARE: u64 = 32;
const DECODED_BYTES_MAX: u64 = 16 * MIB;
/// The share of the changes that are kept for subscribers who come back.
const CHANGES_SHARE: u64 = 16;
const CHANGES_BYTES_MAX: u64 = 32 * MIB;
/// One recent change in each partition's digest tree for so much memory: 7 MiB for a table that is loaded, of 256 MiB. With 128 MiB
/// a table takes 20,000 writes a second before one is dropped that a comparison with another node needs.
const RECENT_SHARE: u64 = MIB / 2;
const RECENTS_MIN: usize = 128;

/// Who limits the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The flag, or what stands for it.
    Setting,
    /// A control group: the file that has the limit, and the files that tell what is used.
    ControlGroup(Group),
    /// The machine has no more.
    Machine,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setting => "--memory-budget",
            Self::ControlGroup(_) => "control group",
            Self::Machine => "machine",
        })
    }
}

/// A control group with a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Has the bytes in use.
    pub usage: PathBuf,
    /// Has how many of those are of files, which the system takes back.
    pub stat: PathBuf,
}

/// The memory that the process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In bytes.
    pub bytes: u64,
    /// Who says so.
    pub source: Source,
}

impl Limit {
    /// What is found here, or the setting where that is less.
    pub fn new(setting: Option<u64>) -> Self {
        Self::least(setting, Self::find(Path::new("/")))
    }

    fn least(setting: Option<u64>, found: Self) -> Self {
        match setting {
            Some(bytes) if bytes <= found.bytes => Self { bytes, source: Source::Setting },
            Some(_) | None => found,
        }
    }

    /// The smallest limit of the process's control groups up to the root, else the machine's memory. `root` is where the file system begins.
    fn find(root: &Path) -> Self {
        // Linux; elsewhere there is no such file.
        let total = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| total_bytes(&text));
        let machine = Self { bytes: total.unwrap_or(UNKNOWN_BYTES), source: Source::Machine };
        let limits = groups(root).into_iter().filter_map(|directory| limit_of(&directory));
        limits.chain([machine.clone()]).min_by_key(|limit| limit.bytes).unwrap_or(machine)
    }
}

/// What each part of the node may use, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Pages of the engine.
    pub cache: u64,
    /// Values of hot keys, decoded.
    pub decoded: u64,
    /// Changes for subscribers who come back.
    pub changes: u64,
    /// Recent changes in the digest tree of each partition, in number.
    pub recents: usize,
    /// Request bodies and answers.
    pub bodies: u64,
    /// The longest body.
    pub body_max: u64,
}

impl Shares {
    /// Of so much memory, where nobody says otherwise. `body_max`: the longest body that there should be.
    pub fn of(limit_bytes: u64, body_max: u64) -> Self {
        let bodies = (limit_bytes / BODIES_SHARE).min(BODIES_BYTES_MAX);
        let bodies = bodies.max((BODIES * body_max).min(limit_bytes / BODIES_SHARE_MAX));
        Self {
            cache: (limit_bytes / CACHE_SHARE).clamp(CACHE_BYTES_MIN, CACHE_BYTES_MAX),
            decoded: (limit_bytes / DECODED_SHARE).min(DECODED_BYTES_MAX),
            changes: (limit_bytes / CHANGES_SHARE).min(CHANGES_BYTES_MAX),
            recents: ((limit_bytes / RECENT_SHARE) as usize).clamp(RECENTS_MIN, RECENTS_MAX),
            bodies,
            body_max: body_max.min(bodies / BODY_SHARE),
        }
    }
}

/// How much memory bodies of such a length need.
pub fn needed_for_body(body_bytes: u64) -> u64 {
    body_bytes * BODY_SHARE * BODIES_SHARE_MAX
}

fn total_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// The directories of the control groups that limit the process's memory, up to the root of each hierarchy.
fn groups(root: &Path) -> Vec<PathBuf> {
    let read = |name: &str| fs::read_to_string(root.join("proc/self").join(name)).unwrap_or_default();
    let (memberships, mounts) = (read("cgroup"), read("mountinfo"));
    let mut found = Vec::new();
    for line in memberships.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let is_first_version = controllers.split(',').any(|controller| controller == "memory");
        if !is_first_version && !controllers.is_empty() {
            continue;
        }
        let Some((mounted, top)) = mounts.lines().find_map(|line| mount(line, is_first_version)) else {
            continue;
        };
        // In a container the group may be mounted as if it was the root, while its path is still that outside.
        let below = Path::new(path).strip_prefix(mounted).unwrap_or(Path::new(""));
        let top = root.join(top.trim_start_matches('/'));
        found.extend(
            top.join(below)
                .ancestors()
                .take_while(|directory| directory.starts_with(&top))
                .map(Path::to_owned),
        );
    }
    found
}

/// What is mounted, and where, by a line of `mountinfo` about the hierarchy for memory.
fn mount(line: &str, is_first_version: bool) -> Option<(&str, &str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (mounted, top) = (fields.next()?, fields.next()?);
    let mut kind = file_system.split(' ');
    let is_wanted = match kind.next()? {
        "cgroup" => is_first_version && kind.nth(1)?.split(',').any(|option| option == "memory"),
        "cgroup2" => !is_first_version,
        _ => false,
    };
    is_wanted.then_some((mounted, top))
}

fn limit_of(directory: &Path) -> Option<Limit> {
    let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
    // "max" and what is no number means no limit; the first version writes a number that no machine has.
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let second = [number("memory.max"), number("memory.high")].into_iter().flatten().min();
    let group = |usage| Group { usage: directory.join(usage), stat: directory.join("memory.stat") };
    let (bytes, group) = match second {
        Some(bytes) => (bytes, group("memory.current")),
        None => {
            // Groups above may be out of sight.
            let inherited = read("memory.stat").and_then(|text| stat(&text, "hierarchical_memory_limit"));
            let own = number("memory.limit_in_bytes");
            ([own, inherited].into_iter().flatten().min()?, group("memory.usage_in_bytes"))
        }
    };
    Some(Limit { bytes, source: Source::ControlGroup(group) })
}

/// The figure of this name in `memory.stat`.
pub fn stat(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("created");
            fs::write(path, text).expect("written");
        }
    }

    fn found(files: &[(&str, &str)]) -> (u64, String) {
        let root = tempfile::tempdir().expect("a directory");
        write(root.path(), &[("proc/meminfo", "MemTotal:       2097152 kB\nMemFree: 1 kB\n")]);
        write(root.path(), files);
        let limit = Limit::find(root.path());
        (limit.bytes >> 20, limit.source.to_string())
    }

    const MOUNT_2: (&str, &str) = (
        "proc/self/mountinfo",
        "24 1 0:22 / /proc rw - proc proc rw\n30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
    );

    #[test]
    fn a_machine_without_control_groups_says_what_it_has() {
        assert_eq!(found(&[]), (2048, "machine".into()));
        assert_eq!(total_bytes("MemFree: 1 kB\n"), None);
        assert!(Limit::new(None).bytes > 32 << 20);
        assert_eq!(Limit::new(Some(7)), Limit { bytes: 7, source: Source::Setting });
    }

    /// The limit of a pod is that of the group above its container's.
    #[test]
    fn the_smallest_limit_from_the_group_up_to_the_root_counts() {
        let group = ("proc/self/cgroup", "0::/pod/node\n");
        let own = ("sys/fs/cgroup/pod/node/memory.max", "536870912\n");
        let above = ("sys/fs/cgroup/pod/memory.max", "268435456\n");
        let none = ("sys/fs/cgroup/pod/memory.max", "max\n");
        let high = ("sys/fs/cgroup/pod/node/memory.high", "134217728\n");
        assert_eq!(found(&[MOUNT_2, group, own, above]), (256, "control group".into()));
        assert_eq!(found(&[MOUNT_2, group, own, none]), (512, "control group".into()));
        assert_eq!(found(&[MOUNT_2, group, own, high]), (128, "control group".into()));
        assert_eq!(found(&[MOUNT_2, group, none]), (2048, "machine".into()));
        let root = ("proc/self/cgroup", "0::/\n");
        assert_eq!(found(&[MOUNT_2, root, ("sys/fs/cgroup/memory.max", "134217728")]).0, 128);
    }

    /// Docker mounts the container's own group, and /proc names it as the host does.
    #[test]
    fn the_first_version_has_its_hierarchy_for_memory_and_mounts_parts_of_it() {
        let mounts = (
            "proc/self/mountinfo",
            "1 0 0:1 /docker/a /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n\
             2 0 0:2 /docker/a /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
        );
        let group = ("proc/self/cgroup", "5:cpu:/docker/a\n4:memory:/docker/a\n0::/\n");
        let limit = |text| ("sys/fs/cgroup/memory/memory.limit_in_bytes", text);
        assert_eq!(found(&[mounts, group, limit("134217728\n")]), (128, "control group".into()));
        assert_eq!(found(&[mounts, group, limit("9223372036854771712\n")]), (2048, "machine".into()));
        let above = ("sys/fs/cgroup/memory/memory.stat", "cache 1\nhierarchical_memory_limit 67108864\n");
        assert_eq!(found(&[mounts, group, limit("134217728\n"), above]).0, 64);
    }

    #[test]
    fn shares_are_whole_from_a_gibibyte_on_and_shrink_below() {
        let large = Shares::of(8 << 30, 64 << 20);
        assert_eq!((large.cache, large.decoded, large.changes), (24 << 20, 16 << 20, 32 << 20));
        assert_eq!((large.bodies, large.body_max), (512 << 20, 64 << 20));
        assert_eq!(Shares::of(1 << 30, 64 << 20), Shares { bodies: 256 << 20, ..large });
        assert_eq!(Shares::of(1 << 40, 64 << 20).bodies, 1 << 30);
        let small = Shares::of(128 << 20, 64 << 20);
        assert_eq!((small.cache, small.decoded, small.changes), (8 << 20, 4 << 20, 8 << 20));
        assert_eq!((large.recents, small.recents), (1024, 256));
        assert_eq!((small.bodies, small.body_max), (32 << 20, 16 << 20));
        for limit in [64 << 20, 128 << 20, 192 << 20, 256 << 20, 512 << 20, 1 << 30] {
            let shares = Shares::of(limit, 64 << 20);
            let sum = 2 * shares.cache + shares.decoded + shares.changes + shares.bodies;
            assert!(sum <= limit * 5 / 8, "{limit}: {shares:?}");
        }
    }
}
