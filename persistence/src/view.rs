//! A view: follows one entity's events from another place and folds them into a state of
//! its own.
//!
//! It reads the journal, writes nothing to it, and knows nothing of the live entity: it
//! sees an event some time after it was stored, at its next update. It updates itself at
//! an interval, and when asked to, which returns when everything stored before is seen.
//! Its snapshots, if it takes any, are its own and stand under a name of their own. Events
//! are read with the codec and the adapters of the entity's type.
//!
//! ```
//! use perennial_persistence::codec::Json;
//! use perennial_persistence::event_sourced::EventSourced;
//! use perennial_persistence::sequence_nr::SequenceNr;
//! use perennial_persistence::view::View;
//!
//! /// How many events there were, and the number of the last.
//! struct Count<E>(std::marker::PhantomData<E>);
//!
//! impl<E: EventSourced> View for Count<E> {
//!     type Entity = E;
//!     type State = (u64, u64);
//!     type Codec = Json;
//!
//!     fn apply(&self, (count, last): &mut (u64, u64), _event: E::Event, at: SequenceNr) {
//!         *count += 1;
//!         *last = at.get();
//!     }
//! }
//! ```
//!
//! Many views of all events of a type are another matter: this is for following one.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::codec::Codec;
use crate::event_sourced::EventSourced;
use crate::journal::{JournalError, WriteRight};
use crate::persistence_id::PersistenceId;
use crate::replay_filter::ReplayFilterSettings;
use crate::retention::RetentionSettings;
use crate::sequence_nr::SequenceNr;
use crate::storage::Storage;

mod folding;

use folding::Folding;

/// Requests that wait for one view.
const QUEUE_LEN_MAX: usize = 64;

/// What a view makes of an entity's events.
pub trait View: Send + Sync + 'static {
    /// The type of the entity it follows.
    type Entity: EventSourced;
    /// What the view remembers. `Default` is the state before the first event.
    type State: Default + Send + 'static;
    /// How the state becomes a snapshot.
    type Codec: Codec<Self::State>;

    /// Changes the state as an event says, stored at this number. An adapter can make
    /// several events of one number.
    fn apply(
        &self,
        state: &mut Self::State,
        event: <Self::Entity as EventSourced>::Event,
        at: SequenceNr,
    );
}

/// When a view updates itself.
#[derive(Debug, Clone)]
pub struct ViewSettings {
    /// How often it updates itself; `None` for only when asked.
    pub update_interval: Option<Duration>,
    /// Stored events read by one update, at least 1.
    pub replay_max: u64,
    /// How streams with two authors are read.
    pub replay_filter: ReplayFilterSettings,
    /// Its own snapshots; `None` for none: it reads all events when it starts.
    pub snapshots: Option<ViewSnapshots>,
}

impl Default for ViewSettings {
    fn default() -> Self {
        Self {
            update_interval: Some(Duration::from_secs(5)),
            replay_max: u64::MAX,
            replay_filter: ReplayFilterSettings::default(),
            snapshots: None,
        }
    }
}

/// Where a view keeps its snapshots.
#[derive(Debug, Clone)]
pub struct ViewSnapshots {
    /// Its own name. The type in it is none of an entity, or the two overwrite each
    /// other's.
    pub view_id: PersistenceId,
    /// By which they are written.
    pub right: WriteRight,
    /// How often they are taken and how many are kept. Events are never deleted.
    pub retention: RetentionSettings,
}

/// Why a view could not be updated. Its state is as far as it got; the next update tries
/// again.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The journal or the snapshot store cannot be read.
    #[error("the view cannot be updated: {0}")]
    Unreadable(#[from] JournalError),
    /// Events that it has not seen are deleted.
    #[error(
        "the view has seen events up to {seen}, but those up to {deleted_to} are deleted: keep snapshots of the \
         view, or keep the events"
    )]
    HistoryDeleted {
        /// The last one seen.
        seen: SequenceNr,
        /// The last one deleted.
        deleted_to: SequenceNr,
    },
    /// The stream is damaged.
    #[error("the view cannot be updated: {message}")]
    Damaged {
        /// What is wrong, with the number.
        message: String,
    },
    /// An event is not understood, or the view's code panicked at it.
    #[error("the view stops before event {sequence_nr} (manifest {manifest:?}): {message}")]
    Event {
        /// Its number.
        sequence_nr: SequenceNr,
        /// Its manifest.
        manifest: String,
        /// What is wrong.
        message: String,
    },
    /// The view has ended with its runtime.
    #[error("the view has ended")]
    Ended,
}

type Read<State> = Box<dyn FnOnce(&State, SequenceNr) + Send>;

enum Request<State> {
    Update(oneshot::Sender<Result<SequenceNr, ViewError>>),
    Read(Read<State>),
}

/// The handle of a view. The view ends with it.
pub struct ViewHandle<V: View> {
    requests: mpsc::Sender<Request<V::State>>,
}

impl<V: View> ViewHandle<V> {
    /// Starts a view of an entity. Needs a tokio runtime.
    #[must_use]
    pub fn start(
        view: V,
        persistence_id: PersistenceId,
        storage: &Storage,
        settings: ViewSettings,
    ) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE_LEN_MAX);
        let interval = settings.update_interval;
        let folding = Folding::new(view, persistence_id, storage, settings);
        // It ends when the queue does.
        tokio::spawn(follow(folding, interval, queue));
        Self { requests }
    }

    /// Reads what was stored meanwhile, at most `replay_max` events. Returns the number of
    /// the last event the view has seen.
    ///
    /// # Errors
    /// [`ViewError`]; the view goes on with what it has.
    pub async fn update(&self) -> Result<SequenceNr, ViewError> {
        let (reply, updated) = oneshot::channel();
        let sent = self.requests.send(Request::Update(reply)).await;
        sent.map_err(|_| ViewError::Ended)?;
        updated.await.map_err(|_| ViewError::Ended)?
    }

    /// Looks at the state as it was folded last, and the number of the last event in it.
    /// `look` must not block.
    ///
    /// # Errors
    /// [`ViewError::Ended`].
    pub async fn read<R: Send + 'static>(
        &self,
        look: impl FnOnce(&V::State, SequenceNr) -> R + Send + 'static,
    ) -> Result<R, ViewError> {
        let (reply, seen) = oneshot::channel();
        let read: Read<V::State> = Box::new(move |state, at| {
            let _ = reply.send(look(state, at));
        });
        let sent = self.requests.send(Request::Read(read)).await;
        sent.map_err(|_| ViewError::Ended)?;
        seen.await.map_err(|_| ViewError::Ended)
    }
}

async fn follow<V: View>(
    mut folding: Folding<V>,
    interval: Option<Duration>,
    mut queue: mpsc::Receiver<Request<V::State>>,
) {
    let mut next_at = Instant::now();
    loop {
        // Both are safe to cancel: a request that was not taken stays queued.
        let request = tokio::select! {
            request = queue.recv() => match request {
                Some(request) => Some(request),
                None => return,
            },
            () = sleep_until(next_at), if interval.is_some() => None,
        };
        match request {
            Some(Request::Read(read)) => {
                folding.read(read);
                // Whoever reads all the time must not put the update off.
                continue;
            }
            Some(Request::Update(reply)) => {
                let _ = reply.send(folding.update().await);
            }
            None => {
                if let Err(error) = folding.update().await {
                    tracing::warn!(view_of = %folding.persistence_id(), %error, "a view is not updated");
                }
            }
        }
        next_at = Instant::now() + interval.unwrap_or_default();
    }
}
