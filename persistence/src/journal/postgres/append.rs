//! Appending a batch: try until its outcome is known, and keep failures apart.
//!
//! * A batch that cannot be stored as a whole is stored append by append, still by one
//!   statement.
//! * A lost connection decides nothing: the identical statement is repeated on
//!   another, until the deadline. It stores what the first one did not, and
//!   otherwise the rows say whose they are (`outcome.rs`).
//! * A server that is away, starting up, or read-only after a switchover has done
//!   nothing: it is tried again until the deadline, so that a short outage costs
//!   time and no append.
//! * Something in the data that the server refuses fails the whole statement: the
//!   batch is split in halves until what is poisoned is alone. Never after a lost
//!   connection, when the whole may have been stored.

use futures::future::{BoxFuture, FutureExt};
use tokio::time::{Instant, timeout_at};

use super::columns::Columns;
use super::outcome;
use super::statement::{APPEND_ALL, APPEND_EACH, Piece};
use crate::journal::repetition::{Repetition, first_repetition};
use crate::journal::{Append, AppendError, Appended};
use crate::storage::postgres::connections::{Connections, Failure, Retry};
use crate::writer::SessionUuid;

/// A stalled connection is given up when this part of the append's time has
/// passed, so that there is time to ask again on another.
const ATTEMPTS: u32 = 3;

/// Where the batch is going.
struct Target<'a> {
    connections: &'a Connections,
    session: SessionUuid,
    lane: usize,
    deadline: Instant,
}

/// Stores each append on its own merits.
pub(super) async fn append(
    connections: &Connections,
    session: SessionUuid,
    lane: usize,
    batch: &[Append],
) -> Vec<Appended> {
    let target = Target {
        connections,
        session,
        lane,
        deadline: Instant::now() + connections.options.append_timeout,
    };
    let cuts: Vec<Option<Repetition>> = batch.iter().map(first_repetition).collect();
    let whole = |(append, cut): (_, &Option<Repetition>)| piece_before(append, cut.as_ref());
    let pieces: Vec<Piece<'_>> = batch.iter().zip(&cuts).map(whole).collect();
    let outcomes = store(&target, pieces, Vec::new()).await;
    let add_cut = |(cut, outcome)| with_repetition(cut, outcome);
    cuts.into_iter().zip(outcomes).map(add_cut).collect()
}

fn piece_before<'a>(append: &'a Append, cut: Option<&Repetition>) -> Piece<'a> {
    let end = cut.map_or(append.writes.len(), |cut| cut.write);
    Piece {
        append,
        writes: &append.writes[..end],
        first: append.first_sequence_nr,
    }
}

fn with_repetition(cut: Option<Repetition>, mut outcome: Appended) -> Appended {
    if let Some(cut) = cut {
        outcome.failure.get_or_insert(cut.failure);
    }
    outcome
}

/// Stores pieces of different streams, splitting them if need be. `done` is what
/// is known already and goes before the result.
fn store<'a>(
    target: &'a Target<'_>,
    mut pieces: Vec<Piece<'a>>,
    mut done: Vec<Appended>,
) -> BoxFuture<'a, Vec<Appended>> {
    async move {
        let message = match store_together(target, &pieces).await {
            Ok(outcomes) => {
                done.extend(outcomes);
                return done;
            }
            Err(Poison(message)) => message,
        };
        if pieces.len() > 1 {
            let second = pieces.split_off(pieces.len() / 2);
            let done = store(target, pieces, done).await;
            return store(target, second, done).await;
        }
        if let Some(piece) = pieces.pop() {
            done.push(store_split(target, piece, message).await);
        }
        done
    }
    .boxed()
}

/// Stores a poisoned piece up to the poison: an earlier write may be good.
async fn store_split<'a>(target: &'a Target<'_>, piece: Piece<'a>, message: String) -> Appended {
    if piece.writes.len() == 1 {
        return Appended::none(AppendError::Rejected { message });
    }
    let (head, tail) = piece.split_at(piece.writes.len() / 2);
    let head = only(store(target, vec![head], Vec::new()).await);
    if head.failure.is_some() {
        return head;
    }
    let tail = only(store(target, vec![tail], Vec::new()).await);
    Appended {
        stored_writes: head.stored_writes + tail.stored_writes,
        failure: tail.failure,
    }
}

fn only(mut outcomes: Vec<Appended>) -> Appended {
    // One outcome per piece: `store` keeps to it.
    outcomes.pop().unwrap_or_else(|| {
        let message = "no outcome was determined".into();
        Appended::none(AppendError::Unknown { message })
    })
}

/// The server refuses something in the data; nothing is stored.
struct Poison(String);

/// How one attempt ended.
enum Attempt {
    /// What became of each piece; `None` for those to be tried again.
    Decided(Vec<Option<Appended>>),
    Poisoned(String),
    /// Certainly not stored; worth trying again.
    InTheWay(String),
    /// Certainly not stored, and no use in trying again now.
    Refused(String),
    /// Possibly stored.
    Undecided(String),
}

/// Tries until each piece is decided or the deadline has passed.
async fn store_together(
    target: &Target<'_>,
    pieces: &[Piece<'_>],
) -> Result<Vec<Appended>, Poison> {
    let mut outcomes: Vec<Option<Appended>> = pieces.iter().map(|_| None).collect();
    let mut retry = Retry::until(target.deadline);
    // Whether an attempt may have stored something that was not found out since.
    let mut sent = false;
    loop {
        let open: Vec<usize> = (0..pieces.len())
            .filter(|&nr| outcomes[nr].is_none())
            .collect();
        let to_try: Vec<Piece<'_>> = open.iter().map(|&nr| pieces[nr]).collect();
        let message = match attempt(target, &to_try, sent).await {
            Attempt::Decided(decided) => {
                for (nr, outcome) in open.into_iter().zip(decided) {
                    outcomes[nr] = outcome;
                }
                if outcomes.iter().all(Option::is_some) {
                    return Ok(outcomes.into_iter().flatten().collect());
                }
                sent = false;
                "another writer is in the way again and again".to_owned()
            }
            Attempt::Poisoned(message) if !sent => return Err(Poison(message)),
            Attempt::Refused(message) if !sent => {
                return Ok(fill(outcomes, &AppendError::Unavailable { message }));
            }
            Attempt::Poisoned(message) | Attempt::Refused(message) | Attempt::InTheWay(message) => {
                message
            }
            Attempt::Undecided(message) => {
                sent = true;
                message
            }
        };
        if !retry.pause().await {
            let failure = if sent {
                AppendError::Unknown { message }
            } else {
                AppendError::Unavailable { message }
            };
            return Ok(fill(outcomes, &failure));
        }
    }
}

fn fill(outcomes: Vec<Option<Appended>>, failure: &AppendError) -> Vec<Appended> {
    let filled =
        |outcome: Option<Appended>| outcome.unwrap_or_else(|| Appended::none(failure.clone()));
    outcomes.into_iter().map(filled).collect()
}

fn all(pieces: &[Piece<'_>]) -> Vec<Option<Appended>> {
    let all = |piece: &Piece<'_>| Appended {
        stored_writes: piece.writes.len(),
        failure: None,
    };
    pieces.iter().map(|piece| Some(all(piece))).collect()
}

/// Sends the batch once. `sent` says whether an earlier one may have done
/// something.
async fn attempt(target: &Target<'_>, pieces: &[Piece<'_>], sent: bool) -> Attempt {
    let (lane, lane_nr) = target.connections.append_lane(target.lane);
    let mut guard = match lane.acquire(target.session, target.deadline).await {
        Ok(guard) => guard,
        // Nothing was sent.
        Err(error) => return Attempt::InTheWay(format!("no connection could be made: {error}")),
    };
    let work = async {
        let columns = Columns::of(pieces, guard.tails());
        let events: usize = pieces.iter().map(Piece::event_count).sum();
        let is_all = |rows: u64| usize::try_from(rows) == Ok(events);
        // An earlier attempt that may have done something makes this one useless.
        if !sent {
            let arguments = columns.for_all(target.session, lane_nr, guard.backend())?;
            let query = sqlx::query_with(APPEND_ALL, arguments);
            match query.execute(guard.connection()).await {
                Ok(done) if is_all(done.rows_affected()) => {
                    guard.tails().remember(pieces);
                    return Ok(all(pieces));
                }
                Ok(_) => {}
                Err(error) if Failure::of(&error) == Failure::UniqueViolation => {}
                Err(error) => return Err(error),
            }
        }
        let arguments = columns.for_each(target.session, lane_nr)?;
        let done = sqlx::query_with(APPEND_EACH, arguments)
            .execute(guard.connection())
            .await?;
        if is_all(done.rows_affected()) {
            return Ok(all(pieces));
        }
        // From here on an error must count as undecided: something may be stored.
        let looked = outcome::look(guard.connection(), target.session, lane_nr, pieces, sent).await;
        looked.map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))
    };
    let patience = target.connections.options.append_timeout / ATTEMPTS;
    let give_up = target.deadline.min(Instant::now() + patience);
    let error = match timeout_at(give_up, work).await {
        Ok(Ok(decided)) => {
            guard.give_back();
            return Attempt::Decided(decided);
        }
        Ok(Err(error)) => error,
        Err(_) => return Attempt::Undecided(format!("no answer within {patience:?}")),
    };
    let message = error.to_string();
    match Failure::of(&error) {
        Failure::Poisoned => {
            guard.give_back();
            Attempt::Poisoned(message)
        }
        // The rival's rows are visible now, so the next attempt leaves the append
        // out and finds the reason.
        Failure::UniqueViolation | Failure::Contention => {
            guard.give_back();
            Attempt::InTheWay(message)
        }
        Failure::ReadOnly => Attempt::InTheWay(message),
        Failure::Refused => Attempt::Refused(message),
        Failure::Undecided => Attempt::Undecided(message),
    }
}
