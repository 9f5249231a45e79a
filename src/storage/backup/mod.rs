//! Backups: all rows of a node at one instant, tombstones included, with what the node knows about its cluster.
//!
//! - [`run`] reads them from a running store without stopping its writers, as [lines](mod@line). `storage::table::tap`
//!   collects what changes meanwhile, `cut` is the instant.
//! - [`write`](mod@write) and `complete` make a directory of the lines, whose format is in [`content`]; [`read`] checks and reads it; [`seal`]
//!   encrypts it, for a [`recipient`] too.
//! - [`bucket`] keeps it in a bucket of S3 (feature `s3`).
//! - [`compare`] tells two of them apart. `offline::restore` makes a store of one.

pub mod base;
#[cfg(feature = "s3")]
pub mod bucket;
#[cfg(not(feature = "s3"))]
#[path = "no_bucket.rs"]
pub mod bucket;
pub mod compare;
mod complete;
pub mod content;
mod cut;
mod layer;
pub mod line;
pub mod read;
pub mod recipient;
pub mod run;
pub mod seal;
pub mod write;

#[cfg(test)]
mod tests;
