//! A linearizability checker, for the simulation of strong tables here and for histories of real clusters in `tests/strong`.

pub mod checker;
mod tests;
