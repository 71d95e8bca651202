//! What clients know of the faults under way: enough to be where it hurts.
//!
//! A fault that strikes where nobody looks finds nothing. So the world tells clients
//! through which machines only to read for now, through which to send what is in a hurry,
//! and when it is time for lone writers to write. What clients make of it is theirs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What clients are told; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hints(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    /// Through these nobody writes; one is in it as often as it was told.
    quiet: Vec<u32>,
    /// Through these the hurried send, mostly.
    crowded: Vec<u32>,
    /// Counts the calls for writes.
    calls: u64,
}

impl Hints {
    /// From now on nobody writes through these machines, and most read through them.
    pub(crate) fn quieten(&self, machines: &[u32]) {
        self.told().quiet.extend(machines);
    }

    /// Takes that back.
    pub(crate) fn unquieten(&self, machines: &[u32]) {
        for machine in machines {
            remove_one(&mut self.told().quiet, *machine);
        }
    }

    /// From now on the hurried send through this machine, mostly.
    pub(crate) fn crowd(&self, machine: u32) {
        self.told().crowded.push(machine);
    }

    /// Takes that back.
    pub(crate) fn uncrowd(&self, machine: u32) {
        remove_one(&mut self.told().crowded, machine);
    }

    /// Where it is crowded, if anywhere.
    pub(crate) fn crowded(&self) -> Option<u32> {
        self.told().crowded.last().copied()
    }

    /// Now is the time for lone writers to write.
    pub(crate) fn call_for_writes(&self) {
        self.told().calls += 1;
    }

    pub(crate) fn calls(&self) -> u64 {
        self.told().calls
    }

    /// Whether it is quiet there.
    pub(crate) fn is_quiet(&self, machine: u32) -> bool {
        self.told().quiet.contains(&machine)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove_one(machines: &mut Vec<u32>, machine: u32) {
    if let Some(place) = machines.iter().position(|known| *known == machine) {
        machines.remove(place);
    }
}
