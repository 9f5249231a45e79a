//! Whole clusters in virtual time, over a network that is cut and comes again: whatever happens, all converge, no acknowledged
//! write is lost, and nothing that every member has seen deleted is readable again.
//!
//! A schedule follows from its seed alone. One that fails is made small, and printed with its seed;
//! `DYNARUST_SEED=n cargo test --test proptests cluster::one_seed -- --nocapture` runs that again and prints all that happened.
//! `DYNARUST_SEEDS=from..to` tries others than those that are tried always.

mod fellows;
mod model;
mod node;
mod quiet;
mod run;
mod schedule;
mod words;
mod world;

use std::{ops::Range, panic::AssertUnwindSafe};

use dynarust::core::{protocol::message::Message, register::Payload};

use self::{run::run, schedule::Schedule};
use crate::replica::Change;

/// Schedules that are tried always.
const SEEDS: Range<u64> = 0..3_000;
const FOUND: [u64; 3] = [6_140, 25_179, 45_024];
/// Tests that share them, so that all processors have some.
const SHARES: u64 = 4;

/// What broke, panics included.
fn failure(schedule: &Schedule) -> Option<String> {
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| run(schedule, false)));
    match ran {
        Ok((Ok(()), _)) => None,
        Ok((Err(broken), _)) => Some(broken),
        Err(_) => Some("it panicked".into()),
    }
}

/// Leaves out what is not needed to fail.
fn shrink(mut schedule: Schedule) -> Schedule {
    let mut index = 0;
    while index < schedule.steps.len() {
        let mut smaller = schedule.clone();
        smaller.steps.remove(index);
        match failure(&smaller) {
            Some(_) => schedule = smaller,
            None => index += 1,
        }
    }
    schedule
}

fn try_share(share: u64) {
    for seed in crate::seeds(SEEDS, &FOUND).into_iter().filter(|seed| seed % SHARES == share) {
        let schedule = Schedule::of(seed);
        if failure(&schedule).is_some() {
            let small = shrink(schedule);
            let broken = failure(&small).expect("it fails still");
            panic!("DYNARUST_SEED={seed}: {broken}\n{small}");
        }
    }
}

#[test]
fn clusters_converge_and_lose_nothing_whatever_happens_1() {
    try_share(0);
}

#[test]
fn clusters_converge_and_lose_nothing_whatever_happens_2() {
    try_share(1);
}

#[test]
fn clusters_converge_and_lose_nothing_whatever_happens_3() {
    try_share(2);
}

#[test]
fn clusters_converge_and_lose_nothing_whatever_happens_4() {
    try_share(3);
}

#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("DYNARUST_SEED") else { return };
    let schedule = Schedule::of(seed.parse().expect("DYNARUST_SEED=number"));
    let schedule = if failure(&schedule).is_some() { shrink(schedule) } else { schedule };
    let (outcome, trace) = run(&schedule, true);
    println!("{schedule}\n{}", trace.join("\n"));
    outcome.expect("nothing breaks");
}

#[test]
fn what_happens_follows_from_the_seed() {
    for seed in 0..8 {
        let [(_, first), (_, second)] = [0, 1].map(|_| run(&Schedule::of(seed), true));
        assert!(!first.is_empty());
        assert_eq!(first, second);
    }
}

/// A message in few words.
fn describe(message: &Message) -> String {
    match message {
        Message::Round(round) => format!(
            "round at {} root {:02x?} guarantee {} swept {} {}{}{}{}",
            round.at_ms(),
            round.root.map(|root| root.0[0]),
            round.guarantee_ms,
            round.swept_ms,
            round.expired_ms,
            if round.flags.complete { " whole" } else { "" },
            if round.flags.pushing { " pushing" } else { "" },
            if round.flags.gap { " gap" } else { "" },
        ),
        Message::Rows(rows) => {
            let names: Vec<String> = rows
                .tables
                .iter()
                .flat_map(|(_, rows)| rows)
                .map(|row| format!("{} {}", row.key.as_str(), row.marker.timestamp))
                .collect();
            format!("rows {}{} {}", rows.batch, if rows.repair { " repair" } else { "" }, names.join(", "))
        }
        Message::Applied { batch, deleted } => format!("applied {batch}, {} deleted", deleted.len()),
        other => {
            let text = format!("{other:?}");
            let kind: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
            format!("{kind}, {} bytes", postcard::to_stdvec(other).expect("it can be encoded").len())
        }
    }
}

fn describe_change(change: &Change) -> String {
    let what = match &change.register {
        None => "gone".to_owned(),
        Some(register) => match register.payload() {
            Payload::Deleted => format!("deleted {}", register.timestamp()),
            Payload::Live { expires_at_ms, .. } => {
                format!("{} until {expires_at_ms:?}", register.timestamp())
            }
        },
    };
    format!("{:?} {} {what}", change.cause, change.key.as_str())
}
