//! Why two authors of one stream are impossible: a sketch of the proof. There is no
//! code here; the statements are `APPEND` (`statement.rs`), the writes in
//! `journal/postgres.rs` and `snapshot_store/postgres.rs`, and the fences in
//! `registry/postgres.rs`. The tests are in `tests/postgres/fence.rs`.
//!
//! **Claim (I-2).** When a fence of a session (or of a session's shard up to an
//! epoch) has returned, no transaction that commits later contains a write by that
//! session (to that shard under such an epoch), and what it did commit is seen by
//! every statement that begins after the return.
//!
//! **Given.** A session has one row per lane. A write is one statement in its own
//! transaction. It takes `FOR SHARE` on the row of its lane and writes only rows
//! joined to that row, if the row is unfenced. A fence updates all rows of the
//! session in one transaction. Nothing ever takes a fence back: `fenced_at` is set
//! once, `fenced_shards` only grows by `greatest`, and a deleted row counts as
//! fenced.
//!
//! **Proof.** Take a write W and a fence F, and the row r of W's lane. The share lock
//! and the update of r exclude one another until the end of the transaction, so one
//! of them is first.
//!
//! * *W has its lock first.* F waits until W's transaction has ended: committed, and
//!   then every later statement sees it; or rolled back, and then it never was. If
//!   W's client stalls, F ends its backend, which rolls W back. F cannot return in
//!   between.
//! * *F has r first.* W waits for F's commit. Then `READ COMMITTED` does not go on
//!   with the row as W's snapshot has it: it fetches the newest version and evaluates
//!   the condition again on that (`EvalPlanQual`). `fenced_at IS NULL` is part of
//!   the condition; `fenced_shards` is read from the locked version, because the
//!   insert takes it from the CTE that locks. So W finds itself fenced and writes
//!   nothing.
//! * *W begins after F's commit.* Its snapshot has the fence.
//!
//! It does not matter when W was sent, how long it lay in a buffer, or whose clock
//! says what. It does matter that
//!
//! * the lock is really taken: a CTE that nothing reads is dropped by the planner, so
//!   a test looks at the plan;
//! * it is a row lock. An advisory lock, checked in the same statement, would be
//!   waited for *after* the snapshot was taken, and the check would read the old row;
//! * locks are taken before anything is written, and on one row: appends wait for
//!   fences, never the other way round in a circle.
//!
//! **Claim (I-3).** A write W to a stream after its next owner's first recovery R is
//! never by an earlier owner. Between the earlier owner and R there was a fence; by
//! I-2, what the earlier owner stored, R has read, and it stores nothing any more.
//! Two writers that nobody fenced (a bug, two clusters on one database) are still
//! kept apart by the primary key; and by the check that an append begins right after
//! an event that is there or, where events were deleted, after the highest number the
//! stream ever had. An event that the same connection has just stored for the same
//! incarnation is not looked for; why that decides the same: `tails.rs`.
//!
//! **Termination.** A fence waits only for writes that have the lock. After 500 ms it
//! ends those backends that block it and are named after the fenced session, and
//! only those: so a stalled client cannot hold a fence up, and a fence cannot hurt
//! anybody else.
