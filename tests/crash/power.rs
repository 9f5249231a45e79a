//! Power cuts: a file system that forgets all that was not synced, under a node that writes.
//!
//! kill -9 alone never shows a missing sync: what the process wrote is in the kernel, and stays. Here it is gone.

use std::fs;

use super::{
    ledger::{Chance, Ledger, Sizes},
    mount::Mount,
};
use crate::harness::Setup;

const CUTS: u64 = 10;
const WRITERS: u64 = 6;
const IMAGE_MIB: u64 = 512;
const SIZES: Sizes = &[(20..200, 50), (200..8_000, 10), (8_000..60_000, 36), (1_000_000..1_040_000, 4)];

#[test]
fn ten_power_cuts_under_load_lose_nothing_acknowledged() {
    let Some(mut mount) = Mount::ext4(IMAGE_MIB) else { return };
    let data = mount.path().join("storage.db");
    let mut setup = Setup::new().flag("--data", &data);
    let mut chance = Chance::new(10);
    let mut ledger = Ledger::new(WRITERS, SIZES, 10);
    for cut in 0..CUTS {
        let node = setup.start();
        ledger.verify(&node);
        // The first cuts come early, when the directory itself is new.
        ledger.load(node.address(), 1 + chance.below(1 + 60 * cut), || mount.cut_power());
        setup = node.kill();
        mount.restore_power();
        let blobs = fs::read_dir(data.join("blobs")).map(|entries| entries.count()).unwrap_or_default();
        assert_eq!(blobs, 0, "sled never syncs what it puts into blobs/");
    }
    let node = setup.start();
    ledger.verify(&node);
    let (_, check) = node.kill().run(&["check", "--data", &data.to_string_lossy()]);
    assert_eq!(check.code(), Some(0), "{check:?}");
}
