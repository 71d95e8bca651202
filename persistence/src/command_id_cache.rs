//! What one entity remembers of the command ids in its stream, so that most
//! commands need not ask the journal whether they are retries (promise I-8).
//!
//! The journal's index of command ids is the truth and this is a cache of it:
//! bounded, hashed, and never the source of an answer to a client. It only
//! decides *when* the index is asked, see [`Recall`]. Replies are not kept here;
//! they are stored with the events. Next: `journal.rs`, `find_commands`.

use std::collections::VecDeque;

use xxhash_rust::xxh3::xxh3_64;

use crate::command::CommandId;
use crate::sequence_nr::SequenceNr;

/// Command ids one entity remembers; at 16 bytes each, 4 KiB when it is full.
pub const COMMAND_ID_CACHE_CAPACITY: usize = 256;

/// What the cache says about a command id, and what the caller does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    /// Probably stored, around this number. Ask the index *before* handling the
    /// command, and believe only the index: if it knows the id, answer with the
    /// reply it has; if it does not, another id has the same hash and this
    /// command is new.
    Known(SequenceNr),
    /// Certainly not stored: the stream has no command id that is not in the
    /// cache. Handle the command; if it stores nothing, answer without asking.
    CertainlyNew,
    /// Not in the cache, which does not hold all of the stream's ids. Handle the
    /// command; if it stores events, the index decides inside the append; if it
    /// stores nothing, ask the index before answering.
    Unknown,
}

/// The command ids of one entity's stream, as far as they are remembered.
///
/// Costs 16 bytes until the first id is remembered.
#[derive(Debug)]
pub struct CommandIdCache {
    /// Oldest first; at most [`COMMAND_ID_CACHE_CAPACITY`]. Boxed because most
    /// live entities have none: one word for each instead of four.
    #[allow(clippy::box_collection)]
    remembered: Option<Box<VecDeque<Remembered>>>,
    complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remembered {
    hash: u64,
    sequence_nr: SequenceNr,
}

impl Default for CommandIdCache {
    fn default() -> Self {
        Self::new()
    }
}

impl CommandIdCache {
    /// The cache of a stream nothing of which was read yet; complete, as long as
    /// every command id of the stream is remembered from now on.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            remembered: None,
            complete: true,
        }
    }

    /// Remembers an id that is stored in the stream, with the number of an event
    /// of its write (the last one where it is known). The number is for people;
    /// what a client is told comes from the index.
    ///
    /// When the cache is full the oldest id is forgotten, and with it
    /// completeness.
    pub fn remember(&mut self, command_id: &CommandId, sequence_nr: SequenceNr) {
        self.remember_hash(hash(command_id), sequence_nr);
    }

    /// Forgets the ids of writes that were not stored after all: those after this
    /// number. Nothing else is forgotten.
    pub fn forget_after(&mut self, sequence_nr: SequenceNr) {
        if let Some(ids) = &mut self.remembered {
            ids.retain(|remembered| remembered.sequence_nr <= sequence_nr);
        }
    }

    /// Looks an id up.
    #[must_use]
    pub fn lookup(&self, command_id: &CommandId) -> Recall {
        self.lookup_hash(hash(command_id))
    }

    /// The stream may hold command ids that this cache was never told: the
    /// recovery started from a snapshot or after deleted events, or the replay
    /// filter discarded events before their ids were remembered.
    pub fn mark_incomplete(&mut self) {
        self.complete = false;
    }

    /// Number of ids remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.remembered.as_ref().map_or(0, |ids| ids.len())
    }

    /// Whether none are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn remember_hash(&mut self, hash: u64, sequence_nr: SequenceNr) {
        let remembered = Remembered { hash, sequence_nr };
        let ids = self.remembered.get_or_insert_default();
        if ids.contains(&remembered) {
            return;
        }
        if ids.len() == COMMAND_ID_CACHE_CAPACITY {
            ids.pop_front();
            self.complete = false;
        }
        ids.push_back(remembered);
    }

    fn lookup_hash(&self, hash: u64) -> Recall {
        // From the newest on: a retry usually follows its original closely.
        let mut ids = self.remembered.iter().flat_map(|ids| ids.iter().rev());
        match ids.find(|remembered| remembered.hash == hash) {
            Some(remembered) => Recall::Known(remembered.sequence_nr),
            None if self.complete => Recall::CertainlyNew,
            None => Recall::Unknown,
        }
    }
}

fn hash(command_id: &CommandId) -> u64 {
    xxh3_64(command_id.as_str().as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(text: &str) -> CommandId {
        CommandId::parse(text).unwrap().unwrap()
    }

    fn nr(nr: u64) -> SequenceNr {
        SequenceNr::new(nr)
    }

    #[test]
    fn an_entity_without_command_ids_costs_nothing_but_two_words() {
        let cache = CommandIdCache::default();
        assert_eq!(size_of::<CommandIdCache>(), 16);
        assert!(cache.remembered.is_none());
        assert!(cache.is_empty());
        assert_eq!(cache.lookup(&id("a")), Recall::CertainlyNew);
    }

    #[test]
    fn a_remembered_id_is_known_and_another_certainly_new() {
        let mut cache = CommandIdCache::new();
        cache.remember(&id("a"), nr(3));
        cache.remember(&id("b"), nr(5));
        assert_eq!(cache.lookup(&id("a")), Recall::Known(nr(3)));
        assert_eq!(cache.lookup(&id("b")), Recall::Known(nr(5)));
        assert_eq!(cache.lookup(&id("c")), Recall::CertainlyNew);
        assert!(!cache.is_empty());
    }

    #[test]
    fn after_a_snapshot_a_missing_id_is_unknown() {
        let mut cache = CommandIdCache::new();
        cache.mark_incomplete();
        assert!(cache.remembered.is_none());
        assert_eq!(cache.lookup(&id("a")), Recall::Unknown);
        cache.remember(&id("a"), nr(101));
        assert_eq!(cache.lookup(&id("a")), Recall::Known(nr(101)));
        assert_eq!(cache.lookup(&id("b")), Recall::Unknown);
    }

    #[test]
    fn the_oldest_is_forgotten_first_and_completeness_with_it() {
        let mut cache = CommandIdCache::new();
        let text = |i: usize| format!("command-{i}");
        for i in 0..COMMAND_ID_CACHE_CAPACITY {
            cache.remember(&id(&text(i)), nr(i as u64 + 1));
        }
        assert_eq!(cache.lookup(&id("other")), Recall::CertainlyNew);
        assert_eq!(cache.lookup(&id(&text(0))), Recall::Known(nr(1)));
        cache.remember(&id("one more"), nr(257));
        assert_eq!(cache.len(), COMMAND_ID_CACHE_CAPACITY);
        assert_eq!(cache.lookup(&id("other")), Recall::Unknown);
        assert_eq!(cache.lookup(&id(&text(0))), Recall::Unknown);
        assert_eq!(cache.lookup(&id(&text(1))), Recall::Known(nr(2)));
        assert_eq!(cache.lookup(&id("one more")), Recall::Known(nr(257)));
    }

    #[test]
    fn what_was_not_stored_is_forgotten() {
        let mut cache = CommandIdCache::new();
        for (text, at) in [("a", 1), ("b", 2), ("c", 4)] {
            cache.remember(&id(text), nr(at));
        }
        cache.forget_after(nr(2));
        assert_eq!(cache.lookup(&id("b")), Recall::Known(nr(2)));
        assert_eq!(cache.lookup(&id("c")), Recall::CertainlyNew);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn remembering_the_same_again_takes_no_second_place() {
        let mut cache = CommandIdCache::new();
        for _ in 0..=COMMAND_ID_CACHE_CAPACITY {
            cache.remember(&id("a"), nr(7));
        }
        assert_eq!(cache.len(), 1);
        assert_eq!(cache.lookup(&id("b")), Recall::CertainlyNew);
    }

    /// Two ids of one hash: neither is ever "certainly new" once the other is
    /// stored, so the index is asked and decides.
    #[test]
    fn a_collision_is_left_to_the_index() {
        let mut cache = CommandIdCache::new();
        cache.remember_hash(42, nr(1));
        assert_eq!(cache.lookup_hash(42), Recall::Known(nr(1)));
        cache.remember_hash(42, nr(9));
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.lookup_hash(42), Recall::Known(nr(9)));
        // The first is forgotten; the hash stays known through the second.
        for i in 0..COMMAND_ID_CACHE_CAPACITY as u64 - 1 {
            cache.remember_hash(1_000 + i, nr(10 + i));
        }
        assert_eq!(cache.lookup_hash(42), Recall::Known(nr(9)));
        assert_eq!(cache.len(), COMMAND_ID_CACHE_CAPACITY);
    }

    #[test]
    fn an_id_is_found_by_its_text_not_by_its_value() {
        let mut cache = CommandIdCache::new();
        cache.remember(&id("order-17"), nr(2));
        let sent_again = String::from("order-") + "17";
        assert_eq!(cache.lookup(&id(&sent_again)), Recall::Known(nr(2)));
        assert_eq!(cache.lookup(&id("order-170")), Recall::CertainlyNew);
    }
}
