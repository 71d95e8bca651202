//! Database work that its caller cannot leave half done.

/// Runs a piece of database work in a task of its own, so that a caller who goes
/// away does not leave a connection in the middle of something.
pub(crate) async fn owned<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Tasks are cancelled only when the runtime shuts down, and then this
            // one is not polled again either.
            Err(_) => std::future::pending().await,
        },
    }
}
