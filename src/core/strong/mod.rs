//! Strong tables, as pure functions: what a client asks for, what the log carries, and how the one becomes the other.
//!
//! Only the leader evaluates. It takes a request, tests its conditions on the state that its log makes, stamps the
//! results, and proposes an entry that carries *registers*. Applying an entry is merging its registers, on every
//! replica alike. Merging is idempotent, so a replica may apply an entry twice, and a snapshot may hold rows that are
//! newer than its index.
//!
//! - [`request`]: what clients ask, and what they are told.
//! - [`mod@evaluate`]: what a request comes to on a state.
//! - [`entry`]: what the log carries.

pub mod entry;
pub mod evaluate;
pub mod request;
