//! One direction of a stream between two nodes of a process.

use std::time::Duration;

use perennial_persistence::registry::NodeNr;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Faults;

/// Batches on their way in one direction, at each end.
pub(super) const STREAM_BATCHES_MAX: usize = 64;

/// A stream on which nothing arrives for so long is taken for lost, as a
/// connection's keep-alive would.
const STREAM_LOST_AFTER: Duration = Duration::from_secs(5);

/// Brings what is sent to where it is received, in order, until either end is
/// dropped or the stream is lost. Then both directions end.
pub(super) async fn carry<T>(
    faults: Faults,
    (from, to): (NodeNr, NodeNr),
    mut sent: mpsc::Receiver<T>,
    brought: mpsc::Sender<T>,
    lost: CancellationToken,
) {
    let carried = async {
        loop {
            let batch = tokio::select! {
                batch = sent.recv() => batch,
                () = brought.closed() => None,
            };
            let Some(batch) = batch else { return };
            let arrival = faults.pass_in_stream(from, to);
            if timeout(STREAM_LOST_AFTER, arrival).await.is_err() {
                return;
            }
            if brought.send(batch).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = carried => lost.cancel(),
        () = lost.cancelled() => {}
    }
}
