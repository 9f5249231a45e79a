//! What survives what: kill -9, power cuts, full disks, damaged bytes, restarts, maintenance cut short. Nothing acknowledged
//! may be lost, nothing wrong may be served, and whatever else there is to say must be said plainly.

mod compact;
mod damage;
mod disks;
mod example;
mod full_disk;
mod kill;
pub mod ledger;
mod live;
pub mod mount;
mod power;
mod restart;
