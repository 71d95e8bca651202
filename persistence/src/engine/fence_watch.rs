//! Whether this node's session is fenced as a whole, which ends it, or only for a
//! shard that has moved, which is as it should be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::journal::Journal;
use crate::runtime::contained::contained;
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// How long to wait before an unanswered question is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Remembers that the session is fenced, for ever.
pub(super) struct FenceWatch {
    fenced: watch::Sender<bool>,
    /// The journal is being asked.
    asking: Arc<AtomicBool>,
}

impl Default for FenceWatch {
    fn default() -> Self {
        Self {
            fenced: watch::Sender::new(false),
            asking: Arc::default(),
        }
    }
}

impl FenceWatch {
    /// A write was refused: asks the journal, until it answers, whether it would
    /// refuse all.
    pub(super) fn suspect(&self, journal: &Arc<dyn Journal>, session: SessionUuid) {
        metrics::counter!("perennial_fenced_writes_total").increment(1);
        if *self.fenced.borrow() || self.asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (journal, fenced) = (Arc::clone(journal), self.fenced.clone());
        let asking = Arc::clone(&self.asking);
        tokio::spawn(async move {
            // No fence of a shard reaches the last epoch.
            let anything = [(ShardNr(0), Epoch::LAST)];
            loop {
                // Nobody listens any more once the engine is gone.
                if fenced.is_closed() && Arc::strong_count(&asking) == 1 {
                    return;
                }
                match contained(journal.may_write(session, &anything)).await {
                    Ok(may_write) => {
                        if may_write != [true] {
                            fenced.send_replace(true);
                        }
                        break;
                    }
                    Err(_) => tokio::time::sleep(ASK_AGAIN).await,
                }
            }
            asking.store(false, Ordering::Release);
        });
    }

    /// Returns when the session is known to be fenced.
    pub(super) async fn fenced(&self) {
        let mut fenced = self.fenced.subscribe();
        // The sender lives as long as `self`.
        let _ = fenced.wait_for(|&fenced| fenced).await;
    }
}
