//! Which line is sent next, and what an answer means for it: the decisions of
//! `load`, without connection or clock.
//!
//! At most `room` lines are between file and answer. Lines for one entity are
//! sent one after the other, each after the answer to the one before: so they
//! have their effects in the order of the file, also when one of them has to be
//! sent again. Sending again is safe, because every line has a command id.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lines::Line;

/// First pause before a line is sent again; it doubles.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);
/// Longest pause, unless the node asks for a longer one.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// A line on its way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) line: Line,
    /// As it stands in a file of JSON lines.
    pub(super) json: Option<String>,
}

/// What the node said about a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// Done; `duplicate` when an earlier run of the same line had done it.
    Done { duplicate: bool },
    /// The entity's rules refuse it.
    Rejected(String),
    /// It failed, and sending it again can help.
    TryAgain {
        why: String,
        after: Option<Duration>,
    },
    /// It failed for good.
    Failed(String),
}

/// What became of a line in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Loaded { duplicate: bool },
    Rejected(String),
    Failed(String),
}

/// A line that is finished.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) pending: Arc<Pending>,
    pub(super) outcome: Outcome,
}

/// The lines between file and answer.
#[derive(Debug)]
pub(super) struct Window {
    room: usize,
    /// How long a line is tried again, from its entity's first failure on.
    patience: Duration,
    /// By entity id: its lines in order; the first is the one being worked on.
    entities: HashMap<String, Entity>,
    lines: usize,
    /// To be sent now, by line number.
    ready: BTreeMap<u64, Arc<Pending>>,
    /// Sent and not answered, by line number.
    sent: HashMap<u64, Arc<Pending>>,
    /// To be sent again, by time and line number.
    paused: BTreeMap<(Instant, u64), Arc<Pending>>,
}

#[derive(Debug, Default)]
struct Entity {
    lines: VecDeque<Arc<Pending>>,
    /// Since when nothing has succeeded.
    failing_since: Option<Instant>,
    failures: u32,
}

impl Window {
    pub(super) fn new(room: usize, patience: Duration) -> Self {
        Self {
            room: room.max(1),
            patience,
            entities: HashMap::new(),
            lines: 0,
            ready: BTreeMap::new(),
            sent: HashMap::new(),
            paused: BTreeMap::new(),
        }
    }

    /// Whether another line may be added.
    pub(super) fn has_room(&self) -> bool {
        self.lines < self.room
    }

    /// Whether every line is finished.
    pub(super) fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// Takes the next line of the file.
    pub(super) fn add(&mut self, pending: Pending) {
        let pending = Arc::new(pending);
        let entity_id = pending.line.entity_id.clone();
        let entity = self.entities.entry(entity_id).or_default();
        entity.lines.push_back(Arc::clone(&pending));
        self.lines += 1;
        if entity.lines.len() == 1 {
            self.ready.insert(pending.line.nr, pending);
        }
    }

    /// A line to send now, the earliest in the file first.
    pub(super) fn next_to_send(&mut self) -> Option<Arc<Pending>> {
        let (nr, pending) = self.ready.pop_first()?;
        self.sent.insert(nr, Arc::clone(&pending));
        Some(pending)
    }

    /// The answer to a line; `None` if it is to be sent again, or was not sent.
    pub(super) fn answered(&mut self, nr: u64, said: Said, now: Instant) -> Option<Settled> {
        let pending = self.sent.remove(&nr)?;
        let entity = self.entities.get_mut(&pending.line.entity_id)?;
        let outcome = match said {
            Said::Done { duplicate } => Outcome::Loaded { duplicate },
            Said::Rejected(why) => Outcome::Rejected(why),
            Said::Failed(why) => Outcome::Failed(why),
            Said::TryAgain { why, after } => {
                let since = *entity.failing_since.get_or_insert(now);
                if now.duration_since(since) < self.patience {
                    let pause = retry_after(entity.failures).max(after.unwrap_or_default());
                    entity.failures = entity.failures.saturating_add(1);
                    self.paused.insert((now + pause, nr), pending);
                    return None;
                }
                // The lines behind it get one try each: the entity had its time.
                Outcome::Failed(why)
            }
        };
        if !matches!(outcome, Outcome::Failed(_)) {
            entity.failing_since = None;
            entity.failures = 0;
        }
        entity.lines.pop_front();
        self.lines -= 1;
        match entity.lines.front() {
            Some(next) => {
                self.ready.insert(next.line.nr, Arc::clone(next));
            }
            None => {
                self.entities.remove(&pending.line.entity_id);
            }
        }
        Some(Settled { pending, outcome })
    }

    /// The connection is gone: what was sent and not answered is to be sent again.
    pub(super) fn connection_lost(&mut self) {
        self.ready.extend(self.sent.drain());
    }

    /// When a paused line is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.paused.first_key_value().map(|((due, _), _)| *due)
    }

    /// Makes ready what is due.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some(entry) = self.paused.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let ((_, nr), pending) = entry.remove_entry();
            self.ready.insert(nr, pending);
        }
    }

    /// Gives up: every line that is not finished, in the order of the file.
    pub(super) fn abandon(&mut self, why: &str) -> Vec<Settled> {
        let entities = self.entities.drain();
        let mut left: Vec<_> = entities.flat_map(|(_, entity)| entity.lines).collect();
        left.sort_by_key(|pending| pending.line.nr);
        *self = Self::new(self.room, self.patience);
        left.into_iter()
            .map(|pending| Settled {
                pending,
                outcome: Outcome::Failed(why.to_owned()),
            })
            .collect()
    }
}

fn retry_after(failures: u32) -> Duration {
    RETRY_AFTER_MIN
        .saturating_mul(1 << failures.min(16))
        .min(RETRY_AFTER_MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn window(lines: &[(u64, &str)]) -> Window {
        let mut window = Window::new(10, PATIENCE);
        for (nr, entity_id) in lines {
            window.add(Pending {
                line: Line {
                    nr: *nr,
                    entity_id: (*entity_id).to_owned(),
                    command_id: String::new(),
                    payload: bytes::Bytes::new(),
                },
                json: None,
            });
        }
        window
    }

    fn send_all(window: &mut Window) -> Vec<u64> {
        std::iter::from_fn(|| window.next_to_send().map(|pending| pending.line.nr)).collect()
    }

    fn done() -> Said {
        Said::Done { duplicate: false }
    }

    fn try_again() -> Said {
        Said::TryAgain {
            why: "busy".into(),
            after: None,
        }
    }

    #[test]
    fn lines_of_one_entity_follow_each_other_and_others_do_not_wait() {
        let now = Instant::now();
        let mut window = window(&[(1, "a"), (2, "a"), (3, "b"), (4, "a")]);
        assert_eq!(send_all(&mut window), [1, 3]);
        assert!(window.answered(1, done(), now).is_some());
        assert_eq!(send_all(&mut window), [2]);
        assert!(window.answered(3, done(), now).is_some());
        assert!(window.answered(2, done(), now).is_some());
        assert_eq!(send_all(&mut window), [4]);
        assert!(window.answered(4, done(), now).is_some());
        assert!(window.is_empty() && window.entities.is_empty());
    }

    #[test]
    fn a_line_tried_again_holds_back_those_behind_it() {
        let now = Instant::now();
        let mut window = window(&[(1, "a"), (2, "a")]);
        assert_eq!(send_all(&mut window), [1]);
        assert!(window.answered(1, try_again(), now).is_none());
        assert_eq!(send_all(&mut window), [] as [u64; 0]);
        let due = window.next_due().unwrap();
        assert_eq!(due, now + RETRY_AFTER_MIN);
        window.wake(now);
        assert_eq!(send_all(&mut window), [] as [u64; 0]);
        window.wake(due);
        assert_eq!(send_all(&mut window), [1]);
    }

    #[test]
    fn the_pause_grows_and_is_at_least_what_the_node_asks_for() {
        let now = Instant::now();
        let mut window = window(&[(1, "a")]);
        for pause in [100, 200, 400] {
            send_all(&mut window);
            window.answered(1, try_again(), now);
            let due = window.next_due().unwrap();
            assert_eq!(due, now + Duration::from_millis(pause));
            window.wake(due);
        }
        send_all(&mut window);
        let after = Some(Duration::from_secs(7));
        window.answered(
            1,
            Said::TryAgain {
                why: String::new(),
                after,
            },
            now,
        );
        assert_eq!(window.next_due(), Some(now + Duration::from_secs(7)));
        assert_eq!(retry_after(u32::MAX), RETRY_AFTER_MAX);
    }

    #[test]
    fn patience_ends_for_an_entity_and_a_success_renews_it() {
        let start = Instant::now();
        let mut window = window(&[(1, "a"), (2, "a"), (3, "a")]);
        send_all(&mut window);
        assert!(window.answered(1, try_again(), start).is_none());
        let late = start + PATIENCE;
        window.wake(late);
        send_all(&mut window);
        let settled = window.answered(1, try_again(), late).unwrap();
        assert_eq!(settled.outcome, Outcome::Failed("busy".into()));
        // The next gets one try.
        assert_eq!(send_all(&mut window), [2]);
        assert!(window.answered(2, done(), late).is_some());
        assert_eq!(send_all(&mut window), [3]);
        assert!(window.answered(3, try_again(), late).is_none());
    }

    #[test]
    fn rejections_and_failures_are_final() {
        let now = Instant::now();
        let mut window = window(&[(1, "a"), (2, "b")]);
        send_all(&mut window);
        let rejected = window
            .answered(1, Said::Rejected("no".into()), now)
            .unwrap();
        assert_eq!(rejected.outcome, Outcome::Rejected("no".into()));
        let failed = window.answered(2, Said::Failed("bad".into()), now).unwrap();
        assert_eq!(failed.outcome, Outcome::Failed("bad".into()));
        assert!(window.is_empty());
    }

    #[test]
    fn a_lost_connection_sends_everything_unanswered_again_in_order() {
        let now = Instant::now();
        let mut window = window(&[(1, "a"), (2, "b"), (3, "c"), (4, "a")]);
        assert_eq!(send_all(&mut window), [1, 2, 3]);
        window.answered(2, done(), now);
        window.connection_lost();
        assert_eq!(send_all(&mut window), [1, 3]);
        // An answer that is not waited for changes nothing.
        assert!(window.answered(2, done(), now).is_none());
    }

    #[test]
    fn giving_up_hands_every_line_back() {
        let now = Instant::now();
        let mut window = window(&[(1, "a"), (2, "b"), (3, "a"), (4, "c")]);
        send_all(&mut window);
        window.answered(2, try_again(), now);
        window.answered(4, done(), now);
        let left = window.abandon("no node");
        let nrs: Vec<u64> = left.iter().map(|settled| settled.pending.line.nr).collect();
        assert_eq!(nrs, [1, 2, 3]);
        assert!(window.is_empty());
    }

    #[test]
    fn the_window_is_bounded() {
        let lines: Vec<_> = (1..=10).map(|nr| (nr, "a")).collect();
        let mut window = window(&lines);
        assert!(!window.has_room());
        send_all(&mut window);
        window.answered(1, done(), Instant::now());
        assert!(window.has_room());
    }
}
