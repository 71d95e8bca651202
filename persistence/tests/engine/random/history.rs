//! What was sent to one entity and what came back, checked against its final
//! state and its journal.
//!
//! Every text an entity stores belongs to one operation, so the state at sequence
//! number `n` is the first `n` texts of the final state, and an answer with the
//! number `n` was computed at point `n` of the one linear order.

use std::collections::BTreeMap;

use perennial_persistence::command::{Answer, CommandId, Reply};
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::journal::{EventRange, JournalError};
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::snapshot_store::SnapshotCriteria;
use perennial_persistence::storage::Storage;

use crate::fixture::{Command, notes, texts};

#[derive(Debug)]
pub(super) struct Op {
    pub(super) entity: &'static str,
    /// `None` asks for the state.
    pub(super) command: Option<Command>,
    pub(super) command_id: Option<String>,
    pub(super) expected: Option<u64>,
    pub(super) attempts: Vec<Attempt>,
}

#[derive(Debug)]
pub(super) struct Attempt {
    /// The engine it was sent to.
    pub(super) engine: usize,
    /// Before it was sent; counts up over the whole program.
    pub(super) invoked: u64,
    /// After it was answered.
    pub(super) completed: u64,
    /// `None` when the engine was killed.
    pub(super) answer: Option<Answer>,
}

impl Op {
    pub(super) fn new(
        entity: &'static str,
        command: Option<Command>,
        command_id: Option<String>,
        expected: Option<u64>,
    ) -> Self {
        Self {
            entity,
            command,
            command_id,
            expected,
            attempts: Vec::new(),
        }
    }

    /// What it stores.
    fn texts(&self) -> &[String] {
        match &self.command {
            Some(
                Command::Add(text)
                | Command::AddOnce(text)
                | Command::ThenStop(text)
                | Command::ThenSnapshot(text),
            ) => std::slice::from_ref(text),
            Some(Command::AddAll(texts)) => texts,
            _ => &[],
        }
    }

    pub(super) fn writes(&self) -> bool {
        !self.texts().is_empty()
    }

    /// Sent twice it has one effect.
    pub(super) fn may_be_retried(&self) -> bool {
        self.command_id.is_some()
            || !self.writes()
            || matches!(self.command, Some(Command::AddOnce(_)))
    }

    fn replies(&self) -> impl Iterator<Item = (&Attempt, &Reply)> {
        self.attempts
            .iter()
            .filter_map(|attempt| Some((attempt, attempt.answer.as_ref()?.as_ref().ok()?)))
    }

    /// Whether every attempt was refused for certain.
    fn is_refused(&self) -> bool {
        self.attempts.iter().all(
            |attempt| matches!(&attempt.answer, Some(Err(error)) if error.applied() == Applied::No),
        )
    }
}

pub(super) struct History<'a> {
    pub(super) entity: &'static str,
    /// The final state.
    pub(super) state: Vec<String>,
    pub(super) ops: Vec<&'a Op>,
}

impl History<'_> {
    pub(super) fn check(&self) {
        self.check_effects();
        self.check_answers();
        self.check_order();
    }

    /// Where each text is, counted from 1, which is its sequence number.
    fn places(&self) -> BTreeMap<&str, u64> {
        let numbered = self.state.iter().map(String::as_str).zip(1..);
        let places: BTreeMap<_, _> = numbered.collect();
        assert_eq!(
            places.len(),
            self.state.len(),
            "I-8: two effects: {:?}",
            self.state
        );
        places
    }

    /// I-5, I-7, I-8: acknowledged once, refused never, all or nothing.
    fn check_effects(&self) {
        let places = self.places();
        for op in &self.ops {
            let found: Vec<u64> = op
                .texts()
                .iter()
                .filter_map(|text| places.get(text.as_str()).copied())
                .collect();
            assert!(
                found.is_empty() || found.len() == op.texts().len(),
                "I-7: {op:?} is stored in part: {:?}",
                self.state
            );
            assert!(
                found.windows(2).all(|pair| pair[0] + 1 == pair[1]),
                "I-7: {op:?} is stored in pieces: {:?}",
                self.state
            );
            if op.writes() {
                let acknowledged = op.replies().next().is_some();
                assert!(
                    !acknowledged || !found.is_empty(),
                    "I-5: lost: {op:?}: {:?}",
                    self.state
                );
                assert!(
                    !op.is_refused() || found.is_empty(),
                    "I-8: refused and stored: {op:?}: {:?}",
                    self.state
                );
            }
        }
    }

    /// Each answer is what the linear order says.
    fn check_answers(&self) {
        let places = self.places();
        for op in &self.ops {
            for (_, reply) in op.replies() {
                let nr = reply.sequence_nr.get();
                assert!(nr <= self.state.len() as u64, "{op:?}");
                let expected = &self.state[..nr as usize];
                let has_reply = !matches!(
                    op.command,
                    Some(Command::ThenStop(_) | Command::ThenSnapshot(_))
                );
                if has_reply {
                    assert_eq!(texts(reply), expected, "I-12: {op:?}");
                }
                if let Some(last) = op.texts().last() {
                    assert_eq!(places.get(last.as_str()), Some(&nr), "{op:?}");
                }
                if let Some(before) = op.expected {
                    assert_eq!(nr, before + op.texts().len() as u64, "{op:?}");
                }
                assert!(
                    !reply.duplicate || op.command_id.is_some() && op.writes(),
                    "{op:?}"
                );
            }
            if op.writes() {
                let originals = op.replies().filter(|(_, reply)| !reply.duplicate).count();
                assert!(originals <= 1, "I-8: handled twice: {op:?}");
            }
            for error in op
                .attempts
                .iter()
                .filter_map(|a| a.answer.as_ref()?.as_ref().err())
            {
                self.check_error(op, error);
            }
        }
    }

    fn check_error(&self, op: &Op, error: &CommandError) {
        let possible = match error {
            CommandError::Rejected { .. } => {
                matches!(op.command, Some(Command::AddOnce(_))) && op.command_id.is_none()
            }
            CommandError::Unhandled { .. } => matches!(op.command, Some(Command::Unhandled)),
            CommandError::Panicked { .. } => matches!(
                op.command,
                Some(Command::PanicInHandler | Command::PanicInApply)
            ),
            CommandError::PersistRejected { .. } => {
                op.writes() || matches!(op.command, Some(Command::Unencodable))
            }
            CommandError::SequenceNrMismatch { expected, actual } => {
                Some(expected.get()) == op.expected && expected != actual
            }
            CommandError::PersistFailed { .. } | CommandError::WriterConflict { .. } => op.writes(),
            CommandError::JournalUnavailable { .. }
            | CommandError::RecoveryFailed { .. }
            | CommandError::BackingOff { .. }
            | CommandError::StashFull(_)
            | CommandError::ShardUnavailable { .. }
            | CommandError::DeadlineExceeded { .. } => true,
            _ => false,
        };
        assert!(possible, "{error:?} to {op:?}");
    }

    /// I-12: what was answered before something else was sent comes before it; what
    /// was sent to one engine in order is executed in that order.
    fn check_order(&self) {
        let mut answered: Vec<(&Op, &Attempt, &Reply)> = Vec::new();
        for op in &self.ops {
            answered.extend(op.replies().map(|(attempt, reply)| (*op, attempt, reply)));
        }
        for &(first_op, first, first_reply) in &answered {
            for &(op, attempt, reply) in &answered {
                // A retry's answer is as old as its original.
                if reply.duplicate || attempt.invoked <= first.invoked {
                    continue;
                }
                let in_order = attempt.engine == first.engine && !first_reply.duplicate;
                if first.completed < attempt.invoked || in_order {
                    let (before, after) = (first_reply.sequence_nr, reply.sequence_nr);
                    assert!(
                        before < after || before == after && !op.writes(),
                        "I-12: {first_op:?} at {before}, then {op:?} at {after}"
                    );
                }
            }
        }
    }

    /// I-3, I-6: the journal is gap-free, and it and the snapshots agree with the
    /// state.
    pub(super) async fn check_storage(&self, storage: &Storage, deletes_events: bool) {
        let id = notes(self.entity);
        let bounds = patiently(|| storage.journal.bounds(&id)).await;
        assert_eq!(bounds.highest.get(), self.state.len() as u64);
        assert!(deletes_events || bounds.deleted_to == SequenceNr::ZERO);
        let range = EventRange {
            persistence_id: id.clone(),
            from: SequenceNr::new(1),
            to: SequenceNr::MAX,
            max_events: usize::MAX,
            max_bytes: usize::MAX,
        };
        let events = patiently(|| storage.journal.read_events(&range)).await;
        let mut next = bounds.deleted_to;
        for event in events {
            next = next.next();
            assert_eq!(event.sequence_nr, next, "I-3: not contiguous");
            let text = &self.state[next.get() as usize - 1];
            let json = format!("{{\"Added\":{text:?}}}");
            assert_eq!(event.payload.bytes, json.as_bytes());
        }
        assert_eq!(next, bounds.highest, "I-3: not contiguous");
        let mut criteria = SnapshotCriteria::ALL;
        while let Some(snapshot) = patiently(|| storage.snapshots.load(&id, criteria)).await {
            let at = snapshot.sequence_nr;
            assert!(
                at <= bounds.highest,
                "I-4: a snapshot of what is not stored"
            );
            let state: Vec<String> = serde_json::from_slice(&snapshot.payload.bytes).unwrap();
            assert_eq!(
                state,
                self.state[..at.get() as usize],
                "I-6: snapshot at {at}"
            );
            criteria = SnapshotCriteria::up_to(at.previous());
        }
        for op in &self.ops {
            let Some(command_id) = &op.command_id else {
                continue;
            };
            let asked = [CommandId::parse(command_id).unwrap().unwrap()];
            let found = patiently(|| storage.journal.find_commands(&id, &asked)).await;
            let stored = op.writes() && self.state.contains(&op.texts()[0]);
            assert_eq!(found[0].is_some(), stored, "I-8: the index and {op:?}");
        }
    }
}

/// As soon as faults that are still to come let it.
async fn patiently<T, F: Future<Output = Result<T, JournalError>>>(read: impl Fn() -> F) -> T {
    for _ in 0..1_000 {
        if let Ok(value) = read().await {
            return value;
        }
    }
    panic!("the journal does not come back");
}
