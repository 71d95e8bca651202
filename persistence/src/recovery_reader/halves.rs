//! Reading that goes around damage: a statement for many entities that fails
//! because of one of them is split until that one fails alone.

use std::ops::Range;

use futures::future::BoxFuture;

use crate::journal::JournalError;
use crate::sequence_nr::SequenceNr;

use super::{Beginning, Wanted};

/// What a reader answers for one entity.
pub(super) type Answer = Result<Option<Beginning>, JournalError>;

/// Reads all of `wanted` by `read`, which answers for all it is given or fails as a
/// whole. A failure that `is_damage` is pinned on single entities by halving; any
/// other is the answer for all that were asked for.
pub(super) async fn read_in_halves(
    wanted: &[Wanted],
    read: impl Fn(Vec<Wanted>) -> BoxFuture<'static, Result<Vec<Answer>, JournalError>> + Send,
    is_damage: impl Fn(&JournalError) -> bool + Send,
) -> Vec<Answer> {
    let mut answers = Vec::with_capacity(wanted.len());
    // The next to be read is the last; they are read in order.
    let mut ranges: Vec<Range<usize>> = Vec::from([Range {
        start: 0,
        end: wanted.len(),
    }]);
    while let Some(range) = ranges.pop() {
        match read(wanted[range.clone()].to_vec()).await {
            Ok(read) => answers.extend(read),
            Err(error) if is_damage(&error) && range.len() > 1 => {
                let middle = range.start + range.len() / 2;
                ranges.push(middle..range.end);
                ranges.push(range.start..middle);
            }
            Err(error) if is_damage(&error) => {
                answers.extend(wanted[range].iter().map(|one| {
                    Err(JournalError::Corrupt {
                        persistence_id: one.persistence_id.as_str().to_owned(),
                        sequence_nr: SequenceNr::ZERO,
                        message: error.to_string(),
                    })
                }));
            }
            Err(error) => {
                let message = error.to_string();
                answers.extend(range.map(|_| {
                    Err(JournalError::Unavailable {
                        message: message.clone(),
                        source: None,
                    })
                }));
            }
        }
    }
    answers
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;

    use super::*;
    use crate::journal::StreamBounds;
    use crate::persistence_id::PersistenceId;

    fn wanted(count: usize) -> Vec<Wanted> {
        let one = |nr: usize| PersistenceId::new("counter", &nr.to_string()).unwrap();
        (0..count).map(|nr| Wanted::latest(one(nr))).collect()
    }

    fn empty() -> Answer {
        Ok(Some(Beginning {
            bounds: StreamBounds::default(),
            snapshot: None,
            events: Vec::new(),
        }))
    }

    /// One damaged entity among many fails alone, at the cost of few statements.
    #[tokio::test]
    async fn damage_is_pinned_on_its_entity() {
        for damaged in [0, 13, 49] {
            let calls = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&calls);
            let id = damaged.to_string();
            let answers = read_in_halves(
                &wanted(50),
                move |some| {
                    count.fetch_add(1, Ordering::Relaxed);
                    let struck = some.iter().any(|one| one.persistence_id.entity_id() == id);
                    async move {
                        if struck {
                            return Err(JournalError::Unavailable {
                                message: "a page is damaged".into(),
                                source: None,
                            });
                        }
                        Ok(some.iter().map(|_| empty()).collect())
                    }
                    .boxed()
                },
                |_| true,
            )
            .await;
            assert_eq!(answers.len(), 50);
            for (nr, answer) in answers.iter().enumerate() {
                assert_eq!(answer.is_err(), nr == damaged, "{nr}");
            }
            assert!(matches!(
                answers[damaged],
                Err(JournalError::Corrupt { .. })
            ));
            assert!(calls.load(Ordering::Relaxed) <= 13);
        }
    }

    /// A database out of reach is asked once.
    #[tokio::test]
    async fn an_outage_is_not_asked_again() {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let answers = read_in_halves(
            &wanted(50),
            move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                async {
                    Err(JournalError::Unavailable {
                        message: "nobody there".into(),
                        source: None,
                    })
                }
                .boxed()
            },
            |_| false,
        )
        .await;
        assert_eq!((answers.len(), calls.load(Ordering::Relaxed)), (50, 1));
        assert!(answers.iter().all(Result::is_err));
    }
}
