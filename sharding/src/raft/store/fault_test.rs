//! Power failures and failing disks: what was acknowledged is there afterwards.

use std::fmt;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::StorageBackend;

use super::store_test::{append, entry, identity};
use super::*;

/// A disk of which only synced writes survive a power failure; of the others, any
/// part may.
#[derive(Clone, Default)]
struct Disk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Default)]
struct DiskState {
    /// What a program sees.
    seen: Vec<u8>,
    /// What is safe.
    safe: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Writes until the disk fails for good.
    fails_after: Option<u32>,
}

enum Unsynced {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Unsynced {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
            Self::Length(length) => bytes.resize(*length, 0),
        }
    }
}

impl Disk {
    /// The disk after a power failure: what is safe, and some of the rest, torn.
    fn after_power_failure(&self, chance: &mut StdRng) -> Self {
        let state = self.state.lock().unwrap();
        let mut safe = state.safe.clone();
        for unsynced in &state.unsynced {
            match unsynced {
                Unsynced::Write(offset, data) if chance.random_bool(0.5) => {
                    let torn = chance.random_range(0..=data.len());
                    Unsynced::Write(*offset, data[..torn].to_vec()).apply(&mut safe);
                }
                Unsynced::Write(..) => {}
                // A file never loses its length to a later one.
                Unsynced::Length(length) if *length > safe.len() => unsynced.apply(&mut safe),
                Unsynced::Length(_) => {}
            }
        }
        let recovered = DiskState {
            seen: safe.clone(),
            safe,
            ..DiskState::default()
        };
        Self {
            state: Arc::new(Mutex::new(recovered)),
        }
    }

    fn fail_after(&self, writes: Option<u32>) {
        self.state.lock().unwrap().fails_after = writes;
    }

    fn open(&self) -> RaftStore {
        let path = Path::new("(faulty)");
        let (file, image) = StoreFile::over(self.clone(), path, identity()).unwrap();
        RaftStore::over(identity(), image, Writer::thread(file))
    }
}

impl DiskState {
    fn write(&mut self, change: Unsynced) -> io::Result<()> {
        if let Some(left) = &mut self.fails_after {
            if *left == 0 {
                return Err(io::Error::other("this disk is broken"));
            }
            *left -= 1;
        }
        change.apply(&mut self.seen);
        self.unsynced.push(change);
        Ok(())
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        let state = self.state.lock().unwrap();
        out.copy_from_slice(&state.seen[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let change = Unsynced::Length(length as usize);
        self.state.lock().unwrap().write(change)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.fails_after == Some(0) {
            return Err(io::Error::other("this disk is broken"));
        }
        state.safe = state.seen.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let change = Unsynced::Write(offset as usize, data.to_vec());
        self.state.lock().unwrap().write(change)
    }
}

/// After each power failure there is at least what was acknowledged, at most what
/// was asked for, and no hole.
#[tokio::test]
async fn what_was_acknowledged_survives_power_failures() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut disk = Disk::default();
    let (mut entries, mut term) = (0, 0);
    for failure in 0..40 {
        let store = disk.open();
        {
            let image = store.image();
            let last = image
                .entries
                .last_key_value()
                .map_or(0, |(index, _)| *index);
            assert!(last >= entries, "failure {failure}: {last} < {entries}");
            assert_eq!(image.entries.len() as u64, last, "failure {failure}");
            let voted = image.vote.map_or(0, |vote| vote.leader_id().term);
            assert!(voted >= term, "failure {failure}: {voted} < {term}");
            (entries, term) = (last, voted);
        }
        for _ in 0..chance.random_range(0..4) {
            let more = chance.random_range(1..5);
            let appended = (entries + 1..=entries + more).map(entry).collect();
            append(&store, appended).await.unwrap();
            entries += more;
            if chance.random_bool(0.3) {
                term += 1;
                store.save_vote(Vote::new(term, 7)).await.unwrap();
            }
        }
        // One more is under way when the power fails.
        let late = Box::new(|_| ());
        store.append(vec![entry(entries + 1)], late).await.unwrap();
        disk = disk.after_power_failure(&mut chance);
    }
}

/// A failing write is reported, nothing is written after it, and what was
/// acknowledged before is there when the disk works again.
#[tokio::test]
async fn nothing_is_written_after_a_failure() {
    for writes in 0..30 {
        let disk = Disk::default();
        let store = disk.open();
        append(&store, vec![entry(1)]).await.unwrap();
        disk.fail_after(Some(writes));
        let mut acknowledged = 1;
        let error = loop {
            match append(&store, vec![entry(acknowledged + 1)]).await {
                Ok(()) => acknowledged += 1,
                Err(error) => break error,
            }
        };
        assert!(!error.to_string().is_empty());
        disk.fail_after(None);
        append(&store, vec![entry(acknowledged + 2)])
            .await
            .unwrap_err();
        store.save_vote(Vote::new(9, 7)).await.unwrap_err();
        store.close().await;

        let again = disk
            .after_power_failure(&mut StdRng::seed_from_u64(1))
            .open();
        let image = again.image();
        assert_eq!(image.vote, None, "after {writes} writes");
        let last = image
            .entries
            .last_key_value()
            .map_or(0, |(index, _)| *index);
        assert!(
            (acknowledged..=acknowledged + 1).contains(&last),
            "after {writes} writes: {last}, acknowledged {acknowledged}"
        );
        assert_eq!(image.entries.len() as u64, last);
    }
}
