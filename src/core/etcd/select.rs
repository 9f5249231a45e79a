//! Which of the keys in a range are returned, and in what order. Does as etcd does, in its order: filter, order, then limit.

use std::cmp::Ordering;

use super::request::{KeyValue, Order, Range, Ranged, Target};

/// What was found in a range.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The first keys, in order: as many as [`wanted`] says.
    pub kvs: Vec<KeyValue>,
    /// How many there are in all.
    pub count: i64,
}

/// How many of the keys in a range have to be read.
pub fn wanted(range: &Range) -> usize {
    let is_filtered = range.min_mod_revision != 0
        || range.max_mod_revision != 0
        || range.min_create_revision != 0
        || range.max_create_revision != 0;
    match (range.count_only, range.order, is_filtered) {
        (true, _, _) => 0,
        // One more, to know whether there are more.
        (false, Order::None, false) if range.limit > 0 => {
            usize::try_from(range.limit).unwrap_or(usize::MAX).saturating_add(1)
        }
        (false, ..) => usize::MAX,
    }
}

/// Whether values are returned, or keys are ordered by them.
pub fn wants_values(range: &Range) -> bool {
    !range.keys_only || range.target == Target::Value
}

/// What a read returns of what was found.
pub fn select(range: &Range, found: Found) -> Ranged {
    let Found { mut kvs, count } = found;
    let bounds = |number: i64, min: i64, max: i64| (min == 0 || number >= min) && (max == 0 || number <= max);
    kvs.retain(|kv| {
        bounds(kv.mod_revision, range.min_mod_revision, range.max_mod_revision)
            && bounds(kv.create_revision, range.min_create_revision, range.max_create_revision)
    });
    let order = match (range.order, range.target) {
        (Order::None, Target::Key) => Order::None,
        (Order::None, Target::Version | Target::Create | Target::Mod | Target::Value) => Order::Ascending,
        (order @ (Order::Ascending | Order::Descending), _) => order,
    };
    match order {
        Order::None => {}
        Order::Ascending => kvs.sort_by(|one, other| compare(range.target, one, other)),
        Order::Descending => kvs.sort_by(|one, other| compare(range.target, other, one)),
    }
    let limit = usize::try_from(range.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let more = kvs.len() > limit;
    kvs.truncate(limit);
    if range.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    Ranged { kvs, more, count }
}

fn compare(target: Target, one: &KeyValue, other: &KeyValue) -> Ordering {
    match target {
        Target::Key => one.key.cmp(&other.key),
        Target::Version => one.version.cmp(&other.version),
        Target::Create => one.create_revision.cmp(&other.create_revision),
        Target::Mod => one.mod_revision.cmp(&other.mod_revision),
        Target::Value => one.value.cmp(&other.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::etcd::request::Keys;

    fn found() -> Found {
        let kvs =
            [("a", 5, 9, "z"), ("b", 7, 7, "y"), ("c", 3, 8, "x")].map(|(key, created, modified, value)| {
                KeyValue {
                    key: key.into(),
                    create_revision: created,
                    mod_revision: modified,
                    version: 1,
                    value: value.into(),
                    lease: 0,
                }
            });
        Found { count: 3, kvs: kvs.into() }
    }

    fn selected(change: impl FnOnce(&mut Range)) -> (String, bool) {
        let mut range = Range::new(Keys::Range(b"a".into(), None));
        change(&mut range);
        let mut found = found();
        found.kvs.truncate(wanted(&range));
        let ranged = select(&range, found);
        assert_eq!(ranged.count, 3);
        let keys = ranged.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned());
        (keys.collect(), ranged.more)
    }

    #[test]
    fn keys_are_filtered_then_ordered_then_limited() {
        assert_eq!(selected(|_| ()), ("abc".into(), false));
        assert_eq!(selected(|range| range.limit = 2), ("ab".into(), true));
        assert_eq!(selected(|range| range.limit = 3), ("abc".into(), false));
        assert_eq!(selected(|range| range.limit = -1), ("abc".into(), false));
        assert_eq!(selected(|range| range.order = Order::Descending), ("cba".into(), false));
        assert_eq!(selected(|range| range.target = Target::Value), ("cba".into(), false));
        assert_eq!(
            selected(|range| (range.target, range.order) = (Target::Mod, Order::Descending)),
            ("acb".into(), false)
        );
        assert_eq!(
            selected(|range| (range.target, range.order, range.limit) = (Target::Create, Order::Ascending, 1)),
            ("c".into(), true)
        );
        assert_eq!(selected(|range| range.min_mod_revision = 8), ("ac".into(), false));
        assert_eq!(selected(|range| (range.max_mod_revision, range.limit) = (8, 1)), ("b".into(), true));
        assert_eq!(selected(|range| range.min_create_revision = 5), ("ab".into(), false));
        assert_eq!(selected(|range| range.max_create_revision = 3), ("c".into(), false));
        assert_eq!(selected(|range| range.count_only = true), ("".into(), false));
    }

    /// A quirk of etcd that clients may see: with a limit and a target but no order, the first keys are taken and then ordered.
    #[test]
    fn without_an_order_the_limit_comes_before_the_target() {
        assert_eq!(selected(|range| (range.target, range.limit) = (Target::Value, 1)), ("b".into(), true));
    }

    #[test]
    fn values_are_left_out_after_they_were_ordered() {
        let range = Range {
            keys_only: true,
            target: Target::Value,
            order: Order::Ascending,
            ..Range::new(Keys::Range(b"a".into(), None))
        };
        let ranged = select(&range, found());
        let keys: Vec<_> = ranged.kvs.iter().map(|kv| (kv.key.as_slice(), kv.value.len())).collect();
        assert_eq!(keys, [(&b"c"[..], 0), (b"b", 0), (b"a", 0)]);
    }
}
