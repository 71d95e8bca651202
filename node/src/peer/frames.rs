//! The frames of a stream of commands on the wire, in batches.
//!
//! A batch of frames becomes one message or, if it is large, several: one slow
//! large message would hold up everything behind it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::command::{Answer, CommandId, Reply, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::payload::{CodecId, Payload};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::writer::{Epoch, ShardNr};
use perennial_sharding::peer::{BackFrame, Forwarded};
use prost::Message;

use super::{Malformed, command_error};
use crate::proto::peer as wire;
use crate::telemetry::tracer;

/// Bytes above which a message takes no further frame.
pub(super) const MESSAGE_LEN: usize = 256 << 10;

/// Messages for the frames, in their order.
pub(super) fn forwards_to_wire(frames: Vec<Forwarded>) -> Vec<wire::ForwardBatch> {
    let frames = frames.into_iter().map(forward_to_wire);
    let batch = |frames| wire::ForwardBatch {
        header: None,
        frames,
    };
    split(frames).into_iter().map(batch).collect()
}

/// Messages for the frames, in their order. `len_max` is that of one message: an
/// answer that does not fit is replaced by the error that says so.
pub(super) fn backs_to_wire(frames: Vec<BackFrame>, len_max: usize) -> Vec<wire::BackBatch> {
    let frames = frames.into_iter().map(|frame| back_to_wire(frame, len_max));
    let batch = |frames| wire::BackBatch { frames };
    split(frames).into_iter().map(batch).collect()
}

pub(super) fn forwards_of_wire(frames: Vec<wire::Forward>) -> Result<Vec<Forwarded>, Malformed> {
    frames.into_iter().map(forward_of_wire).collect()
}

pub(super) fn backs_of_wire(frames: Vec<wire::BackFrame>) -> Result<Vec<BackFrame>, Malformed> {
    frames.into_iter().map(back_of_wire).collect()
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn split<T: Message>(frames: impl ExactSizeIterator<Item = T>) -> Vec<Vec<T>> {
    let mut messages = Vec::with_capacity(1);
    let mut left = frames.len();
    let mut message = Vec::with_capacity(left);
    let mut len = 0;
    for frame in frames {
        left -= 1;
        len += frame.encoded_len();
        message.push(frame);
        if len >= MESSAGE_LEN && left > 0 {
            messages.push(std::mem::replace(&mut message, Vec::with_capacity(left)));
            len = 0;
        }
    }
    if !message.is_empty() {
        messages.push(message);
    }
    messages
}

fn forward_to_wire(forwarded: Forwarded) -> wire::Forward {
    use wire::forward::Request as Asked;
    wire::Forward {
        correlation_id: forwarded.correlation_id,
        routed_at: forwarded.routed_at,
        shard: forwarded.shard.0,
        epoch: forwarded.epoch.0,
        persistence_id: forwarded.persistence_id.as_str().to_owned(),
        request: Some(match forwarded.request {
            Request::Command {
                payload,
                command_id,
                expected_sequence_nr,
                metadata,
            } => Asked::Command(wire::Command {
                payload: Some(payload_to_wire(payload)),
                command_id: command_id.map_or_else(String::new, |id| id.as_str().to_owned()),
                expected_sequence_nr: expected_sequence_nr.map(SequenceNr::get),
                metadata: metadata.map(Arc::unwrap_or_clone).unwrap_or_default(),
            }),
            Request::State => Asked::State(wire::Nothing {}),
        }),
        time_left_us: forwarded.time_left.map(micros),
        traceparent: tracer::to_send(&forwarded.trace),
    }
}

fn forward_of_wire(forward: wire::Forward) -> Result<Forwarded, Malformed> {
    use wire::forward::Request as Asked;
    let request = match forward.request.ok_or(Malformed::missing("request"))? {
        Asked::State(wire::Nothing {}) => Request::State,
        Asked::Command(command) => Request::Command {
            payload: payload_of_wire(command.payload)?,
            command_id: CommandId::parse(&command.command_id)
                .map_err(|error| Malformed::new("command_id", error))?,
            expected_sequence_nr: command.expected_sequence_nr.map(SequenceNr::new),
            metadata: (!command.metadata.is_empty()).then(|| Arc::new(command.metadata)),
        },
    };
    let persistence_id = PersistenceId::parse(&forward.persistence_id)
        .map_err(|error| Malformed::new("persistence_id", error))?;
    Ok(Forwarded {
        trace: tracer::sent_on(&forward.traceparent, &persistence_id),
        correlation_id: forward.correlation_id,
        routed_at: forward.routed_at,
        shard: ShardNr(forward.shard),
        epoch: Epoch(forward.epoch),
        persistence_id,
        request,
        time_left: forward.time_left_us.map(Duration::from_micros),
    })
}

fn back_to_wire(frame: BackFrame, len_max: usize) -> wire::BackFrame {
    use wire::back_frame::Frame;
    let frame = match frame {
        BackFrame::Answer {
            correlation_id,
            answer,
        } => Frame::Answer(wire::Answer {
            correlation_id,
            answer: Some(answer_to_wire(answer, len_max)),
        }),
        BackFrame::Returned {
            correlation_id,
            index,
        } => Frame::Returned(wire::Returned {
            correlation_id,
            index,
        }),
        BackFrame::Credit(credit) => Frame::Credit(credit),
    };
    wire::BackFrame { frame: Some(frame) }
}

fn back_of_wire(frame: wire::BackFrame) -> Result<BackFrame, Malformed> {
    use wire::back_frame::Frame;
    Ok(match frame.frame.ok_or(Malformed::missing("frame"))? {
        Frame::Answer(wire::Answer {
            correlation_id,
            answer,
        }) => BackFrame::Answer {
            correlation_id,
            answer: answer_of_wire(answer.ok_or(Malformed::missing("answer"))?)?,
        },
        Frame::Returned(wire::Returned {
            correlation_id,
            index,
        }) => BackFrame::Returned {
            correlation_id,
            index,
        },
        Frame::Credit(credit) => BackFrame::Credit(credit),
    })
}

fn answer_to_wire(answer: Answer, len_max: usize) -> wire::answer::Answer {
    let error = match answer {
        Ok(reply) if fits(&reply, len_max) => {
            return wire::answer::Answer::Reply(wire::Reply {
                payload: Some(payload_to_wire(reply.payload)),
                sequence_nr: reply.sequence_nr.get(),
                duplicate: reply.duplicate,
            });
        }
        // Its command was applied in an earlier run, with a larger limit.
        Ok(reply) if reply.duplicate => CommandError::OwnerLost,
        // The engine limits what it stores, replies included: this is a state.
        Ok(reply) => CommandError::PayloadTooLarge {
            what: "the state, asked for through another node,".into(),
            len: reply.payload.bytes.len(),
            limit: payload_len_max(len_max),
        },
        Err(error) => error,
    };
    wire::answer::Answer::Error(command_error::to_wire(error))
}

fn fits(reply: &Reply, len_max: usize) -> bool {
    reply.payload.bytes.len() + reply.payload.manifest.len() <= payload_len_max(len_max)
}

/// What is left for a payload when the other frames of its message, none of
/// which was full, and names have their place.
fn payload_len_max(len_max: usize) -> usize {
    len_max.saturating_sub(MESSAGE_LEN + (16 << 10))
}

fn answer_of_wire(answer: wire::answer::Answer) -> Result<Answer, Malformed> {
    Ok(match answer {
        wire::answer::Answer::Reply(reply) => Ok(Reply {
            payload: payload_of_wire(reply.payload)?,
            sequence_nr: SequenceNr::new(reply.sequence_nr),
            duplicate: reply.duplicate,
        }),
        wire::answer::Answer::Error(error) => Err(command_error::of_wire(error)?),
    })
}

fn payload_to_wire(payload: Payload) -> wire::Payload {
    wire::Payload {
        codec: payload.codec.0.into(),
        manifest: payload.manifest.into_owned(),
        bytes: payload.bytes,
    }
}

fn payload_of_wire(payload: Option<wire::Payload>) -> Result<Payload, Malformed> {
    let payload = payload.ok_or(Malformed::missing("payload"))?;
    let codec = i16::try_from(payload.codec);
    Ok(Payload {
        codec: CodecId(codec.map_err(|error| Malformed::new("codec", error))?),
        manifest: match payload.manifest {
            manifest if manifest.is_empty() => Cow::Borrowed(""),
            manifest => Cow::Owned(manifest),
        },
        bytes: payload.bytes,
    })
}

#[cfg(test)]
#[path = "frames/frames_test.rs"]
#[allow(clippy::unwrap_used)]
mod frames_test;
