//! Commands that come from another node: the receiving end of a link.
//!
//! A place for its answer is reserved for each command before it is taken in, and
//! the sender is given credit for as many as there are places: answering never
//! waits, and a node that is not listened to is not listened to either. Answers are
//! written in batches. Who owns what is decided where the commands go next:
//! `inner.rs`.

use std::sync::Arc;

use perennial_persistence::command::{ReplyTo, Told};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::trace::Trace;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::peer::{AcceptedStream, BackFrame, Forwarded};

use super::inner::Inner;
use super::parcel::Parcel;

/// Commands of one node that may be here without an answer.
const WINDOW: u32 = 4_096;
/// Answers in one batch.
const BATCH_MAX: usize = 256;

/// Takes commands in until the stream ends.
pub(super) async fn serve(inner: Arc<Inner>, stream: AcceptedStream) {
    let AcceptedStream {
        mut frames, back, ..
    } = stream;
    let (places, told) = mpsc::channel(WINDOW as usize);
    let take_in = async {
        let mut given_up_on = 0;
        while let Some(batch) = frames.recv().await {
            // How long this node may take to learn what the sender knew: as long as
            // the sender lets a command wait for a home.
            let until = Instant::now() + inner.settings.homeless_max;
            for forwarded in batch {
                let index = forwarded.routed_at;
                if index > given_up_on && !inner.catch_up(index, until).await {
                    given_up_on = index;
                }
                let Ok(place) = places.clone().try_reserve_owned() else {
                    tracing::error!("another node sends more commands than it has credit for");
                    return;
                };
                take_in_one(&inner, forwarded, place);
            }
        }
    };
    tokio::select! {
        () = take_in => {}
        () = answer(told, back) => {}
    }
}

fn take_in_one(inner: &Inner, forwarded: Forwarded, place: mpsc::OwnedPermit<(u64, Told)>) {
    let is_behind = inner.applied_index() < forwarded.routed_at;
    let now = Instant::now().into_std();
    if let Some(span) = forwarded.trace.span() {
        span.record("perennial.node", inner.node.0);
    }
    let parcel = Parcel {
        persistence_id: forwarded.persistence_id,
        request: forwarded.request,
        deadline: forwarded.time_left.map(|left| now + left),
        reply_to: ReplyTo::Peer {
            place,
            correlation_id: forwarded.correlation_id,
        },
        trace: forwarded.trace,
        out: Trace::NONE,
        waits_since: None,
        may_have_run: false,
    };
    if is_behind {
        // Returned, it could be overtaken by a later one that is accepted.
        let shard = forwarded.shard.0;
        parcel.refuse(CommandError::ShardUnavailable { shard });
        return;
    }
    inner.arrive(forwarded.shard, forwarded.epoch, parcel);
}

/// Passes answers on, with credit for as many new commands.
async fn answer(mut told: mpsc::Receiver<(u64, Told)>, back: mpsc::Sender<Vec<BackFrame>>) {
    if back.send(vec![BackFrame::Credit(WINDOW)]).await.is_err() {
        return;
    }
    let mut answers = Vec::new();
    while told.recv_many(&mut answers, BATCH_MAX).await > 0 {
        let credit = BackFrame::Credit(answers.len() as u32);
        let frames = answers.drain(..).map(into_frame).chain([credit]);
        if back.send(frames.collect()).await.is_err() {
            return;
        }
    }
}

fn into_frame((correlation_id, told): (u64, Told)) -> BackFrame {
    match told {
        Told::Answer(answer) => BackFrame::Answer {
            correlation_id,
            answer,
        },
        Told::RouteAnew { index } => BackFrame::Returned {
            correlation_id,
            index,
        },
    }
}
