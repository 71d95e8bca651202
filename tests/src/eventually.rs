//! Waiting for a thing instead of for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a thing that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until there is something to see and returns it.
///
/// # Errors
/// When the deadline passes first; `what` says what was waited for.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let give_up = Instant::now() + deadline;
    loop {
        if let Some(seen) = look().await {
            return Ok(seen);
        }
        if Instant::now() >= give_up {
            bail!("waited {deadline:?} in vain for: {what}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
