//! What every journal must do, case by case: run these against a backend to know
//! that the engine can rely on it.
//!
//! Each case is a function that panics if the journal misbehaves. It makes streams
//! of its own, so cases can share a database and run at the same time. The J cases
//! are those of the journals Perennial descends from; the X cases are what fenced
//! writers and command ids ask for on top. [`crate::journal_conformance_tests`]
//! makes one test of each. Behind the cargo feature `testing`.
//!
//! Left out, with reasons: J20 asks for another serializer than the one payloads
//! were encoded with; here payloads are bytes and a codec id, so J20 checks that
//! these come back.

#![allow(clippy::unwrap_used)]

mod commands;
mod fixture;
mod reading;
mod writing;

pub use commands::*;
pub(crate) use fixture::{
    Stream, assert_stored, command_id, commanded, new_session, payload, write,
};
pub use reading::*;
pub use writing::*;

/// Makes a `#[test]` of every case. `$run` is a function that gets a case, which is
/// an `AsyncFnOnce(&Storage)`, opens a storage of the backend and runs it:
///
/// ```text
/// fn run(case: impl AsyncFnOnce(&Storage)) { /* a runtime and an empty storage */ }
/// perennial_persistence::journal_conformance_tests!(run);
/// ```
#[macro_export]
macro_rules! journal_conformance_tests {
    ($run:path) => {
        $crate::journal_conformance_tests! { @each $run:
            j01_all_events, j02_lower_bound, j03_upper_bound, j04_count_limit,
            j05_lower_and_upper_bound, j06_lower_and_upper_bound_and_limit, j07_lower_equals_upper,
            j08_limit_of_one, j09_limit_of_zero, j10_lower_above_upper, j11_unknown_stream,
            j12_range_deletion, j13_highest_stays_after_deletion, j14_highest_stays_after_cleanup,
            j15_from_last_deleted, j16_to_inside_the_deleted, j17_to_last_deleted,
            j18_from_first_surviving, j19_refused_write_leaves_its_neighbours,
            j20_payloads_come_back, j21_metadata_comes_back, j22_window_over_a_deleted_prefix,
            x01_taken_number_is_a_conflict, x02_stale_append_is_a_conflict,
            x03_gap_is_a_conflict, x04_overlapping_atomic_write_leaves_nothing,
            x05_append_racing_a_cleanup, x06_fenced_epoch_is_refused, x07_fenced_session_is_refused,
            x08_unknown_session_is_refused, x09_neighbours_of_failing_appends_are_stored,
            x10_long_stream_in_pages, x11_byte_limit, x12_reading_while_writing,
            x13_deletion_beyond_the_stream, x14_append_after_cleanup,
            x15_repeated_command_gets_its_reply, x16_repeated_command_drops_later_writes,
            x17_command_repeated_within_an_append, x18_commands_outlive_their_events,
            x19_same_command_id_in_two_streams, x20_listing, x21_large_batch,
            x22_stale_append_of_a_stored_command, x23_who_may_write,
        }
    };
    (@each $run:path: $($case:ident),+ $(,)?) => {
        $(#[test] fn $case() { $run($crate::journal::conformance::$case); })+
    };
}
