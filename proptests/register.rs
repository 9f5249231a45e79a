//! Laws of the register: merging is commutative, associative and idempotent, the marker decides, and whatever was written where,
//! all replicas end with the same.

use dynarust::core::register::{Payload, Register};
use proptest::{collection::vec, prelude::*};

use crate::{
    cases,
    generators::{payload, register, timestamp},
};

fn merged(mut into: Register, other: &Register) -> Register {
    into.merge(other.clone());
    into
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn merge_is_commutative_associative_and_idempotent(a in register(), b in register(), c in register()) {
        prop_assert_eq!(merged(a.clone(), &b), merged(b.clone(), &a));
        prop_assert_eq!(merged(merged(a.clone(), &b), &c), merged(a.clone(), &merged(b, &c)));
        prop_assert_eq!(merged(a.clone(), &a), a);
    }

    #[test]
    fn the_greater_marker_wins(a in register(), b in register()) {
        let winner = if a.marker() >= b.marker() { &a } else { &b };
        prop_assert_eq!(&merged(a.clone(), &b), winner);
        if a.timestamp() != b.timestamp() {
            let later = a.timestamp().max(b.timestamp());
            prop_assert_eq!(merged(a.clone(), &b).timestamp(), later);
        }
    }

    #[test]
    fn one_timestamp_with_many_payloads_converges(
        (payloads, order) in vec(payload(), 1..6).prop_flat_map(|payloads| {
            let order = Just(payloads.clone()).prop_shuffle();
            (Just(payloads), order)
        }),
        timestamp in timestamp(),
    ) {
        let converge = |payloads: Vec<Payload>| {
            let registers = payloads.into_iter().map(|payload| Register::new(payload, timestamp));
            registers.reduce(|a, b| merged(a, &b))
        };
        prop_assert_eq!(converge(payloads), converge(order));
    }

    #[test]
    fn the_fingerprint_tells_payloads_apart(a in payload(), b in payload()) {
        prop_assert_eq!(a.fingerprint() == b.fingerprint(), a == b);
    }

    #[test]
    fn kind_and_expiry_are_in_the_fingerprint(a in payload(), at_ms: u64) {
        if let Payload::Live { value, .. } = a {
            let live = |expires_at_ms| Payload::Live { value: value.clone(), expires_at_ms }.fingerprint();
            prop_assert_ne!(live(None), live(Some(at_ms)));
            prop_assert_ne!(live(None), live(Some(0)));
            prop_assert_ne!(live(Some(at_ms)), live(Some(at_ms ^ 1)));
            prop_assert_ne!(live(None), Payload::Deleted.fingerprint());
        }
    }

    #[test]
    fn a_value_is_seen_until_it_expires(payload in payload(), timestamp in timestamp(), now_ms: u64) {
        let register = Register::new(payload.clone(), timestamp);
        let seen = match &payload {
            Payload::Live { value, expires_at_ms } if expires_at_ms.is_none_or(|at_ms| now_ms < at_ms) => {
                Some((value, *expires_at_ms))
            }
            Payload::Live { .. } | Payload::Deleted => None,
        };
        prop_assert_eq!(register.value_at(now_ms), seen);
    }
}
