//! A native window onto a DynaRust cluster: its tables and keys, an editor, changes as they happen, transactions, and the nodes.
//!
//! Three parts, which name one another in one direction only:
//! - [`model`] is what the window knows and what it asks for, as pure state: messages in, commands out. No clock, no socket, no screen; tests
//!   drive it alone.
//! - [`client`] is a thread with the connection: commands in, messages out, over bounded channels. It finds another node when one is lost.
//! - [`views`] draws the model, and tells it what the user did.
//!
//! [`app`] ties them together, once a frame, and `desktop` shows that on a screen. A frame never waits: what takes time happens in the
//! client's thread.

pub mod app;
pub mod arguments;
pub mod client;
#[cfg(feature = "desktop")]
pub mod desktop;
pub mod message;
pub mod model;
pub mod settings;
pub mod views;
