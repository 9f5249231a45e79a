//! What is done to a store that no node has open: check it, compact it, save what a damaged one still has, and mend what a wrong clock
//! left in it.

pub mod check;
pub mod clock_repair;
pub mod compact;
pub mod salvage;

#[cfg(test)]
mod tests;
