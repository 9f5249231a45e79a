//! A store against a model of it, through crashes between any two steps.
//!
//! The model is a register for each key. It keeps what the store looked like after each step since the last that is known to be
//! durable; after a crash the store must look as it did after one of those: a whole prefix of what was done, so no write is
//! torn, no batch is there in part, and nothing that was durable is gone.

mod batches;
pub mod crash;
mod model;
mod steps;
mod world;

use proptest::{collection::vec, prelude::*};

use self::{steps::Step, world::World};
use crate::cases;

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn a_store_is_what_was_written_through_crashes(steps in vec(steps::step(), 1..40)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step)?;
        }
        world.take(&Step::Close)?;
    }
}
