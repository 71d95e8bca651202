use std::collections::BTreeMap;

use perennial_persistence::trace::Trace;
use proptest::prelude::*;

use super::*;
use crate::peer::calls;

/// Larger than anything here.
const LEN_MAX: usize = 4 << 20;

fn command(payload: Payload, command_id: &str, metadata: &[(&str, &str)]) -> Request {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let metadata: BTreeMap<_, _> = metadata.iter().map(owned).collect();
    Request::Command {
        payload,
        command_id: CommandId::parse(command_id).unwrap(),
        expected_sequence_nr: (!metadata.is_empty()).then_some(SequenceNr::ZERO),
        metadata: (!metadata.is_empty()).then(|| Arc::new(metadata)),
    }
}

fn forwarded(correlation_id: u64, request: Request) -> Forwarded {
    Forwarded {
        trace: Trace::NONE,
        correlation_id,
        routed_at: 2,
        shard: ShardNr(3),
        epoch: Epoch(4 << 32 | 5),
        persistence_id: PersistenceId::new("counter", "São Paulo").unwrap(),
        request,
        time_left: Some(Duration::from_micros(6)),
    }
}

fn reply(bytes: impl Into<bytes::Bytes>, duplicate: bool) -> Reply {
    Reply {
        payload: Payload {
            codec: CodecId(-7),
            manifest: "v2".into(),
            bytes: bytes.into(),
        },
        sequence_nr: SequenceNr::MAX,
        duplicate,
    }
}

fn answer(answer: Answer) -> BackFrame {
    BackFrame::Answer {
        correlation_id: 9,
        answer,
    }
}

/// Through bytes, as between two nodes; how many messages it took.
fn crossed_forwards(frames: Vec<Forwarded>) -> (Vec<Forwarded>, usize) {
    let messages = forwards_to_wire(frames);
    let count = messages.len();
    let decoded = messages.into_iter().flat_map(|message| {
        let bytes = bytes::Bytes::from(message.encode_to_vec());
        let message = wire::ForwardBatch::decode(bytes).unwrap();
        forwards_of_wire(message.frames).unwrap()
    });
    (decoded.collect(), count)
}

fn crossed_backs(frames: Vec<BackFrame>, len_max: usize) -> (Vec<BackFrame>, usize) {
    let messages = backs_to_wire(frames, len_max);
    let count = messages.len();
    let decoded = messages.into_iter().flat_map(|message| {
        assert!(message.encoded_len() <= len_max);
        let bytes = bytes::Bytes::from(message.encode_to_vec());
        backs_of_wire(wire::BackBatch::decode(bytes).unwrap().frames).unwrap()
    });
    (decoded.collect(), count)
}

#[test]
fn frames_cross_as_they_are() {
    let forwards = vec![
        forwarded(1, Request::State),
        forwarded(u64::MAX, command(Payload::json("{}"), "", &[])),
        forwarded(
            2,
            command(
                Payload::json(""),
                "id-1",
                &[("trace", "a"), ("", "b"), ("c", "")],
            ),
        ),
    ];
    let expected = format!("{forwards:?}");
    let (crossed, messages) = crossed_forwards(forwards);
    assert_eq!(format!("{crossed:?}"), expected);
    assert_eq!(messages, 1);

    let backs = vec![
        answer(Ok(reply("[1]", false))),
        answer(Ok(reply("", true))),
        answer(Err(CommandError::OwnerLost)),
        BackFrame::Returned {
            correlation_id: 1,
            index: 2,
        },
        BackFrame::Credit(u32::MAX),
    ];
    let expected = format!("{backs:?}");
    let (crossed, messages) = crossed_backs(backs, LEN_MAX);
    assert_eq!(format!("{crossed:?}"), expected);
    assert_eq!(messages, 1);
}

/// `Debug` of a payload shows its length only.
#[test]
fn payloads_cross_byte_by_byte() {
    let bytes: Vec<u8> = (0..=255).collect();
    let (crossed, _) = crossed_backs(vec![answer(Ok(reply(bytes.clone(), false)))], LEN_MAX);
    let [
        BackFrame::Answer {
            answer: Ok(crossed),
            ..
        },
    ] = &crossed[..]
    else {
        panic!("{crossed:?}");
    };
    assert_eq!(*crossed, reply(bytes, false));
}

#[test]
fn a_large_batch_becomes_several_messages_in_order() {
    let large = || Payload::json(vec![b' '; MESSAGE_LEN / 3]);
    let frames = (0..10).map(|nr| forwarded(nr, command(large(), "", &[])));
    let (crossed, messages) = crossed_forwards(frames.collect());
    assert_eq!(messages, 4);
    let ids: Vec<u64> = crossed.iter().map(|sent| sent.correlation_id).collect();
    assert_eq!(ids, (0..10).collect::<Vec<_>>());
}

/// One answer too large for a message must not end the stream of all others.
#[test]
fn an_answer_that_does_not_fit_becomes_an_error() {
    let len_max = 2 * MESSAGE_LEN;
    let large = vec![b' '; len_max];
    let backs = vec![
        answer(Ok(reply(large.clone(), false))),
        answer(Ok(reply(large, true))),
        answer(Ok(reply("1", false))),
    ];
    let (crossed, _) = crossed_backs(backs, len_max);
    let answers: Vec<&Answer> = crossed
        .iter()
        .filter_map(|frame| match frame {
            BackFrame::Answer { answer, .. } => Some(answer),
            _ => None,
        })
        .collect();
    assert!(matches!(
        answers[0],
        Err(CommandError::PayloadTooLarge { .. })
    ));
    assert_eq!(answers[1], &Err(CommandError::OwnerLost));
    assert_eq!(answers[2], &Ok(reply("1", false)));
}

#[test]
fn malformed_frames_are_refused_with_what_is_wrong() {
    use wire::forward::Request as Asked;
    let good = || wire::Forward {
        persistence_id: "counter|a".into(),
        request: Some(Asked::State(wire::Nothing {})),
        ..wire::Forward::default()
    };
    let with = |forward| forwards_of_wire(vec![forward]);
    assert!(with(good()).is_ok());
    let command = |payload, command_id: &str| {
        Asked::Command(wire::Command {
            payload,
            command_id: command_id.into(),
            ..wire::Command::default()
        })
    };
    let codec = wire::Payload {
        codec: 1 << 20,
        ..wire::Payload::default()
    };
    let payload = Some(wire::Payload::default());
    let asks = |request| wire::Forward { request, ..good() };
    let about = |persistence_id: &str| wire::Forward {
        persistence_id: persistence_id.into(),
        ..good()
    };
    for (frame, what) in [
        (asks(None), "request"),
        (about(""), "persistence_id"),
        (about("counter|a|b"), "persistence_id"),
        (asks(Some(command(None, ""))), "payload"),
        (asks(Some(command(Some(codec), ""))), "codec"),
        (asks(Some(command(payload, "a\n"))), "command_id"),
    ] {
        let error = with(frame).unwrap_err();
        assert_eq!(error.what, what, "{error}");
    }
    for frame in [
        None,
        Some(wire::back_frame::Frame::Answer(wire::Answer::default())),
        Some(wire::back_frame::Frame::Answer(wire::Answer {
            correlation_id: 1,
            answer: Some(wire::answer::Answer::Reply(wire::Reply::default())),
        })),
    ] {
        assert!(backs_of_wire(vec![wire::BackFrame { frame }]).is_err());
    }
}

proptest! {
    /// Whatever bytes come, they are understood or refused.
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(batch) = wire::ForwardBatch::decode(&*bytes) {
            let _ = forwards_of_wire(batch.frames);
        }
        if let Ok(batch) = wire::BackBatch::decode(&*bytes) {
            let _ = backs_of_wire(batch.frames);
        }
        if let Ok(call) = wire::CallRequest::decode(&*bytes) {
            let _ = calls::request_of_wire(call.request);
        }
        if let Ok(call) = wire::CallResponse::decode(&*bytes) {
            let _ = calls::response_of_wire(call.response);
        }
        let bytes = bytes::Bytes::from(bytes);
        use wire::call_request::Request as Asked;
        for asked in [Asked::Heartbeat(bytes.clone()), Asked::Propose(bytes)] {
            let _ = calls::request_of_wire(Some(asked));
        }
    }
}
