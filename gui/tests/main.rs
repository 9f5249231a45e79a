//! The window without a display: what it shows, by the names that screen readers get, and what it does with real nodes.

mod app;
mod client;
mod node;
mod window;
