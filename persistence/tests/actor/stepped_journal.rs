//! A journal that shows what is sent to it, and can be made to wait for a step.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use perennial_persistence::journal::{Append, Appended, Journal};
use perennial_persistence::testing::around_journal::AroundJournal;
use perennial_persistence::writer::SessionUuid;
use tokio::sync::Semaphore;

pub(crate) struct SteppedJournal {
    inner: Arc<dyn Journal>,
    /// For each append the events of each of its writes.
    sent: Mutex<Vec<Vec<Vec<String>>>>,
    steps: Semaphore,
}

/// As good as unlimited.
const FREE: usize = 1 << 30;

impl SteppedJournal {
    pub(crate) fn new(inner: Arc<dyn Journal>) -> Self {
        Self {
            inner,
            sent: Mutex::default(),
            steps: Semaphore::new(FREE),
        }
    }

    /// From now on appends wait for [`SteppedJournal::step`].
    pub(crate) fn hold(&self) {
        self.steps.forget_permits(FREE);
    }

    /// Lets one append through.
    pub(crate) fn step(&self) {
        self.steps.add_permits(1);
    }

    /// Appends wait no more.
    pub(crate) fn release(&self) {
        self.steps.add_permits(FREE);
    }

    pub(crate) fn sent(&self) -> Vec<Vec<Vec<String>>> {
        self.sent.lock().unwrap().clone()
    }

    pub(crate) fn forget_sent(&self) {
        self.sent.lock().unwrap().clear();
    }
}

#[async_trait]
impl AroundJournal for SteppedJournal {
    fn inner(&self) -> &dyn Journal {
        &*self.inner
    }

    async fn append(&self, session: SessionUuid, lane: usize, batch: &[Append]) -> Vec<Appended> {
        for append in batch {
            let writes = append.writes.iter().map(|write| {
                let events = write.events.iter();
                events
                    .map(|event| serde_json::from_slice(&event.payload.bytes).unwrap())
                    .collect()
            });
            self.sent.lock().unwrap().push(writes.collect());
        }
        self.steps.acquire().await.unwrap().forget();
        self.inner.append(session, lane, batch).await
    }
}
