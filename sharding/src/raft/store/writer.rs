//! In which order changes of a store are written, and when they count.
//!
//! One writer, one order. A file is written by a thread of its own, because an
//! fsync takes milliseconds and must not hold up the tasks of a node; what arrived
//! during one is committed together by the next. After a failed write nothing more
//! is written: a later entry without the earlier one would be a hole in the log.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::database::{Change, StoreFile};

/// Changes that wait for the disk; raft waits for each of its own, so there are few.
const QUEUED_MAX: usize = 256;

/// Told, once, whether a change is on disk.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Writes changes in their order.
pub(super) enum Writer {
    /// A thread or task that writes what is queued.
    Queue {
        queue: Mutex<Option<mpsc::Sender<Queued>>>,
        ended: Mutex<Option<oneshot::Receiver<()>>>,
    },
    Inline(Mutex<Committer>),
}

pub(super) struct Queued {
    change: Change,
    done: Done,
}

/// A file, until a write to it fails.
pub(super) struct Committer {
    file: StoreFile,
    failed: Option<String>,
    /// Of each write, fsync included.
    duration: metrics::Histogram,
}

impl Writer {
    /// A thread that writes what is queued, until the writer is dropped.
    pub(super) fn thread(file: StoreFile) -> Self {
        let (writer, queued, ending) = Self::queue();
        let committer = Committer::new(file);
        let spawned = std::thread::Builder::new()
            .name("raft-store".to_owned())
            .spawn(move || {
                write_queued(committer, queued);
                let _ = ending.send(());
            });
        if let Err(error) = spawned {
            // The queue is closed, so that whoever writes gets an error.
            tracing::error!(%error, "no thread for the raft store");
        }
        writer
    }

    /// A task that does the same, at its own pace.
    pub(super) fn task(
        file: StoreFile,
        mut latency: impl FnMut() -> Duration + Send + 'static,
    ) -> Self {
        let (writer, mut queued, ending) = Self::queue();
        let mut committer = Committer::new(file);
        tokio::spawn(async move {
            while let Some(first) = queued.recv().await {
                tokio::time::sleep(latency()).await;
                write_batch(&mut committer, first, &mut queued);
            }
            let _ = ending.send(());
        });
        writer
    }

    fn queue() -> (Self, mpsc::Receiver<Queued>, oneshot::Sender<()>) {
        let (queue, queued) = mpsc::channel(QUEUED_MAX);
        let (ending, ended) = oneshot::channel();
        let writer = Self::Queue {
            queue: Mutex::new(Some(queue)),
            ended: Mutex::new(Some(ended)),
        };
        (writer, queued, ending)
    }

    /// Writes within the calls that ask for it.
    pub(super) fn inline(file: StoreFile) -> Self {
        Self::Inline(Mutex::new(Committer::new(file)))
    }

    /// Puts a change in order; `done` is told when it is on disk.
    pub(super) async fn write(&self, change: Change, done: Done) -> io::Result<()> {
        match self {
            Self::Inline(committer) => {
                let mut committer = committer.lock().unwrap_or_else(PoisonError::into_inner);
                done(committer.commit(&[change]));
                Ok(())
            }
            Self::Queue { queue, .. } => {
                let queue = queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let closed = || io::Error::other("the raft store is closed");
                let queue = queue.ok_or_else(closed)?;
                let queued = Queued { change, done };
                queue.send(queued).await.map_err(|_| closed())
            }
        }
    }

    /// Writes what is queued and closes the file. A store in memory stays: it is
    /// there for the next start.
    pub(super) async fn close(&self) {
        let Self::Queue { queue, ended } = self else {
            return;
        };
        queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            // The thread may have ended long ago.
            let _ = ended.await;
        }
    }
}

fn write_queued(mut committer: Committer, mut queued: mpsc::Receiver<Queued>) {
    while let Some(first) = queued.blocking_recv() {
        write_batch(&mut committer, first, &mut queued);
    }
}

/// Writes a change and all that have been queued behind it.
fn write_batch(committer: &mut Committer, first: Queued, queued: &mut mpsc::Receiver<Queued>) {
    let (mut changes, mut waiting) = (vec![first.change], vec![first.done]);
    while let Ok(next) = queued.try_recv() {
        changes.push(next.change);
        waiting.push(next.done);
    }
    let result = committer.commit(&changes);
    for done in waiting {
        done(repeated(&result));
    }
}

impl Committer {
    fn new(file: StoreFile) -> Self {
        Self {
            file,
            failed: None,
            duration: metrics::histogram!("perennial_raft_store_write_seconds"),
        }
    }

    /// Returns when the changes are on disk.
    fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        if let Some(earlier) = &self.failed {
            let message = format!("nothing is written after an earlier failure: {earlier}");
            return Err(io::Error::other(message));
        }
        let began = Instant::now();
        let committed = self.file.commit(changes).map_err(|error| {
            tracing::error!(%error, "the raft store cannot be written");
            self.failed = Some(error.to_string());
            io::Error::other(error)
        });
        self.duration.record(began.elapsed().as_secs_f64());
        committed
    }
}

/// The same result for another who waits for it.
fn repeated(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}
