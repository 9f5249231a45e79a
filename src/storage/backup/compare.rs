//! The rows by which two backups differ.

use std::cmp::Ordering;

use super::{
    cut,
    line::{self, Parsed, Place, TableSummary},
    read::{Backup, PlacedLine},
};
use crate::{
    core::{
        digest::{Digest, Sum},
        hex::{from_hex, to_hex},
        name::TableName,
        register::Register,
    },
    error::Result,
};

/// A key whose rows differ, and what each side has.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// The key.
    pub key: String,
    /// The row of the first backup, if it has one.
    pub a: Option<Register>,
    /// That of the second.
    pub b: Option<Register>,
}

/// Whether the roots of all tables say that two backups have the same rows. They do not if the digest keys differ: then nothing is known.
pub fn are_equal(a: &Backup, b: &Backup) -> bool {
    let rows = |backup: &Backup| -> Vec<(String, String)> {
        let tables = backup.summary.tables.iter().filter(|table| table.live + table.tombstones > 0);
        tables.map(|table| (table.name.clone(), table.root.clone())).collect()
    };
    a.summary.digest_key == b.summary.digest_key && rows(a) == rows(b)
}

/// The roots of all tables that have rows, by name, as a node shows them. `None` if the summary has no valid ones.
pub fn shown_roots(backup: &Backup) -> Option<Vec<(String, String)>> {
    let key = cut::digest_key(&backup.summary)?;
    let tables = backup.summary.tables.iter().filter(|table| table.live + table.tombstones > 0);
    let root = |table: &TableSummary| {
        let name = TableName::parse(&table.name).ok()?;
        let digest = Digest::from_bytes(&from_hex(&table.root)?.try_into().ok()?);
        let count = i64::try_from(table.live + table.tombstones).ok()?;
        let root = key.root([(&name, Sum { digest, count })].into_iter());
        Some((table.name.clone(), to_hex(&root.0)))
    };
    tables.map(root).collect()
}

/// Calls `report` with each key whose rows differ, in order of tables and places. Returns how many there are.
///
/// # Errors
/// `StorageDamaged`; those of `report`.
pub fn differences(a: &Backup, b: &Backup, mut report: impl FnMut(Difference) -> Result<()>) -> Result<u64> {
    let (mut lines_a, mut lines_b) = (a.lines(), b.lines());
    let (mut next_a, mut next_b) = (lines_a.next_line()?, lines_b.next_line()?);
    let mut count = 0;
    loop {
        let order = match (&next_a, &next_b) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return Ok(count),
        };
        let (mut row_a, mut row_b) = (None, None);
        if order.is_le() {
            row_a = std::mem::replace(&mut next_a, lines_a.next_line()?);
        }
        if order.is_ge() {
            row_b = std::mem::replace(&mut next_b, lines_b.next_line()?);
        }
        let line = |row: &Option<PlacedLine>| row.as_ref().map(|(_, line)| line.clone());
        if line(&row_a) == line(&row_b) {
            continue;
        }
        let place = row_a.as_ref().or(row_b.as_ref()).map(|(place, _)| place.clone());
        let Some(Place { table, row }) = place else { continue };
        let key = String::from_utf8_lossy(&row[1..]).into_owned();
        let (a, b) = (register(row_a.as_ref())?, register(row_b.as_ref())?);
        if a != b {
            count += 1;
            report(Difference { table, key, a, b })?;
        }
    }
}

fn register(row: Option<&PlacedLine>) -> Result<Option<Register>> {
    let Some((_, line)) = row else { return Ok(None) };
    Ok(match line::parse(line)? {
        Parsed::Row(_, _, register) => Some(register),
        Parsed::Removed(..) => None,
    })
}
