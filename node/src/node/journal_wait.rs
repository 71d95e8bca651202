//! Waits at the start for a journal that is not there yet: a database that comes up
//! later than its nodes, or a schema that an administrator has still to bring up to
//! date.
//!
//! Whatever else is wrong ends the start at once: a password does not mend itself.
//! Once a node has started, outages are the business of the circuit breaker in the
//! persistence crate.

use std::time::Duration;

use perennial_persistence::registry::RegistryError;
use perennial_sharding::forming::entry::EntryError;
use tokio::time::{Instant, sleep};

use super::NodeError;

/// Pause before it is tried again; doubles up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(2);
/// How often the log says that it still waits, for the same reason.
const REMIND_EVERY: Duration = Duration::from_secs(30);

/// Repeats `attempt` until the journal is there. Safe to cancel if `attempt` is.
///
/// # Errors
/// What `attempt` ended with, unless waiting may mend it.
pub(super) async fn until_there<T>(
    mut attempt: impl AsyncFnMut() -> Result<T, NodeError>,
) -> Result<T, NodeError> {
    let began = Instant::now();
    let mut pause = PAUSE_FIRST;
    let mut said: Option<(String, Instant)> = None;
    loop {
        let error = match attempt().await {
            Ok(there) => {
                if said.is_some() {
                    tracing::info!(waited = ?began.elapsed(), "the journal is there");
                }
                return Ok(there);
            }
            Err(error) if may_pass(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let is_news = said
            .as_ref()
            .is_none_or(|(before, at)| *before != error || now - *at >= REMIND_EVERY);
        if is_news {
            tracing::warn!(
                error,
                waited = ?began.elapsed(),
                "the journal is not there yet: waiting for it"
            );
            said = Some((error, now));
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LAST);
    }
}

/// Whether an error may pass while one waits.
fn may_pass(error: &NodeError) -> bool {
    match error {
        NodeError::Storage(error) => error.may_pass(),
        NodeError::Registry(error) | NodeError::Entry(EntryError::Registry(error)) => {
            matches!(error, RegistryError::Unavailable { .. })
        }
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use perennial_persistence::storage::StorageError;

    use super::*;

    fn outdated() -> NodeError {
        NodeError::Storage(StorageError::SchemaOutdated {
            url: "postgres://db/shop".into(),
            found: 0,
            needed: 1,
        })
    }

    fn refused() -> NodeError {
        let source = sqlx_refusal();
        NodeError::Registry(RegistryError::Unavailable {
            message: source.to_string(),
            source: Some(source),
        })
    }

    fn sqlx_refusal() -> Box<dyn std::error::Error + Send + Sync> {
        std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()
    }

    #[tokio::test]
    async fn what_may_pass_is_waited_for() {
        let mut errors = vec![refused(), outdated(), refused()];
        let there = until_there(async || errors.pop().map_or(Ok(7), Err)).await;
        assert_eq!(there.unwrap(), 7);
        assert!(errors.is_empty());
    }

    #[tokio::test]
    async fn what_does_not_mend_itself_ends_the_start() {
        let mut attempts = 0;
        let ended = until_there(async || {
            attempts += 1;
            Err::<(), _>(NodeError::DataDirRequired)
        });
        assert!(matches!(
            ended.await.unwrap_err(),
            NodeError::DataDirRequired
        ));
        assert_eq!(attempts, 1);
    }
}
