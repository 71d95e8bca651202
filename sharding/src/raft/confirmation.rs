//! Confirms that this node leads, for many who ask at once.
//!
//! A round asks a quorum. Who comes while a round is under way waits for the next
//! one, because a confirmation counts only if its round began afterwards; all who
//! wait share it. So there is one round at a time, however many heartbeats arrive.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::types::Raft;
use crate::cluster_state::ClusterState;
use crate::control_plane::ProposeError;

/// Waiting for a round; more are told to come back.
const WAITING_MAX: usize = 1_024;

type Answer = oneshot::Sender<Result<(), String>>;

/// Asks for rounds; clones share them.
#[derive(Clone)]
pub(super) struct Confirmations {
    waiting: mpsc::Sender<Answer>,
}

impl Confirmations {
    /// The handle, and the task that makes the rounds until all handles are gone.
    pub(super) fn new(
        raft: Raft,
        state: watch::Receiver<Arc<ClusterState>>,
        round_max: Duration,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (waiting, asked) = mpsc::channel(WAITING_MAX);
        (Self { waiting }, run(raft, state, round_max, asked))
    }

    pub(super) async fn confirm(&self) -> Result<(), ProposeError> {
        let (answer, confirmed) = oneshot::channel();
        let no_leader = |message: String| ProposeError::NoLeader { message };
        self.waiting
            .try_send(answer)
            .map_err(|error| no_leader(format!("no confirmation can be asked for: {error}")))?;
        match confirmed.await {
            Ok(result) => result.map_err(no_leader),
            Err(_) => Err(no_leader("this node is stopping".to_owned())),
        }
    }
}

async fn run(
    raft: Raft,
    state: watch::Receiver<Arc<ClusterState>>,
    round_max: Duration,
    mut asked: mpsc::Receiver<Answer>,
) {
    let mut waiting = Vec::new();
    while asked.recv_many(&mut waiting, WAITING_MAX).await > 0 {
        let result = match timeout(round_max, round(&raft, state.clone())).await {
            Ok(result) => result,
            Err(_) => Err(format!("no quorum answered within {round_max:?}")),
        };
        for answer in waiting.drain(..) {
            // Whoever asked may have given up.
            let _ = answer.send(result.clone());
        }
    }
}

/// Ends when a quorum has answered and everything that was committed before is in
/// this node's state: a new leader knows what its predecessors decided only then.
async fn round(raft: &Raft, mut state: watch::Receiver<Arc<ClusterState>>) -> Result<(), String> {
    let (read, _) = raft.get_read_log_id().await.map_err(|e| e.to_string())?;
    let read = read.map_or(0, |read| read.index);
    let applied = state.wait_for(|state| state.index >= read).await;
    applied
        .map(|_| ())
        .map_err(|_| "raft has stopped".to_owned())
}
