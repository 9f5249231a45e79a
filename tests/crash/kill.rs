//! kill -9 in the middle of everything, again and again. `DYNARUST_KILLS=n` does it n times; fifteen is what runs always.

use super::ledger::{Chance, Ledger, Sizes};
use crate::harness::Setup;

const WRITERS: u64 = 6;
const SIZES: Sizes = &[(20..200, 60), (200..8_000, 20), (8_000..60_000, 17), (1_000_000..1_040_000, 3)];

#[test]
fn kill_9_again_and_again_under_load_loses_nothing_acknowledged() {
    let rounds: u64 = std::env::var("DYNARUST_KILLS").map_or(15, |text| text.parse().expect("a number"));
    let mut chance = Chance::new(9);
    let mut ledger = Ledger::new(WRITERS, SIZES, 9);
    let mut setup = Setup::new();
    let mut acknowledged = 0;
    for _ in 0..rounds {
        let node = setup.start();
        ledger.verify(&node);
        let (address, mut running) = (node.address(), Some(node));
        let mut killed = None;
        acknowledged += ledger.load(address, 1 + chance.below(200), || {
            killed = running.take().map(|node| node.kill());
        });
        setup = killed.expect("the load is always disturbed");
    }
    assert!(acknowledged > rounds, "{acknowledged} writes are no load");
    let node = setup.start();
    ledger.verify(&node);
    let (_, check) = node.kill().run(&["check"]);
    assert_eq!(check.code(), Some(0), "{check:?}");
}
