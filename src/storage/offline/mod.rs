//! Tools for a store that no node has open: check it, compact it, salvage a damaged one, and repair the effects of a wrong clock.

pub mod check;
pub mod clock_repair;
pub mod compact;
pub mod restore;
pub mod salvage;

#[cfg(test)]
pub(in crate::storage) mod tests;
