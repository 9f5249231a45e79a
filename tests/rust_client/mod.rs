//! The Rust client against real nodes: what its own tests cannot tell.

mod broken;
mod calls;
mod readme;
mod streams;

/// Runs a future to its end, on one thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}
