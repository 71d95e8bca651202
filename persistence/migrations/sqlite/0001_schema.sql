-- The tables of Perennial in an SQLite file. They are those of Postgres, without
-- what one writer at a time makes unnecessary: no tx column, because commits are
-- already in one order, and no lanes.
--
-- Text compares by bytes (SQLite's default), so listings are in byte order.
-- Times are microseconds since 1970.

CREATE TABLE events (
    -- The global order. AUTOINCREMENT: a number is not given out again after its
    -- row was deleted, so a reader's position stays valid.
    ordering        INTEGER PRIMARY KEY AUTOINCREMENT,
    -- It begins with the entity type, up to "|"; types are ranges of it.
    persistence_id  TEXT NOT NULL,
    sequence_nr     INTEGER NOT NULL CHECK (sequence_nr > 0),
    writer_uuid     BLOB NOT NULL,
    shard           INTEGER NOT NULL,
    codec           INTEGER NOT NULL,
    manifest        TEXT NOT NULL,
    payload         BLOB NOT NULL,
    -- JSON array and JSON object; NULL, the usual case, takes no space.
    tags            TEXT,
    metadata        TEXT,
    -- On the first event of an atomic write: how many events it has, and the
    -- command it comes from with the reply a retry gets.
    write_len       INTEGER,
    command_id      TEXT,
    reply           BLOB,
    reply_codec     INTEGER,
    reply_manifest  TEXT,
    created_at      INTEGER NOT NULL,
    -- One stream has one event per number (I-3). Every read is a range of it.
    UNIQUE (persistence_id, sequence_nr)
);

-- A command has its effect once (I-8). Partial: events without one cost nothing.
CREATE UNIQUE INDEX events_command_id ON events (persistence_id, command_id)
    WHERE command_id IS NOT NULL;

-- A row only for streams from which events were deleted: their highest number
-- must not be forgotten with the events.
CREATE TABLE streams (
    persistence_id  TEXT PRIMARY KEY,
    highest         INTEGER NOT NULL,
    deleted_to      INTEGER NOT NULL,
    -- The entity was deleted as a whole: at which number, and when. What it was up
    -- to that number must not come back, even if rows of it are still there because
    -- the deletion was interrupted.
    tombstone       INTEGER,
    tombstone_at    INTEGER
) WITHOUT ROWID;

-- Command ids outlive their deleted events, until the horizon.
CREATE TABLE deleted_commands (
    persistence_id  TEXT NOT NULL,
    command_id      TEXT NOT NULL,
    -- Of the last event of the write.
    sequence_nr     INTEGER NOT NULL,
    reply           BLOB NOT NULL,
    reply_codec     INTEGER NOT NULL,
    reply_manifest  TEXT NOT NULL,
    deleted_at      INTEGER NOT NULL,
    PRIMARY KEY (persistence_id, command_id)
);
-- For the sweep of those beyond the horizon.
CREATE INDEX deleted_commands_deleted_at ON deleted_commands (deleted_at);

CREATE TABLE snapshots (
    persistence_id  TEXT NOT NULL,
    sequence_nr     INTEGER NOT NULL,
    shard           INTEGER NOT NULL,
    codec           INTEGER NOT NULL,
    manifest        TEXT NOT NULL,
    payload         BLOB NOT NULL,
    created_at      INTEGER NOT NULL,
    PRIMARY KEY (persistence_id, sequence_nr)
);

-- Durable state: the latest value only.
CREATE TABLE states (
    persistence_id  TEXT PRIMARY KEY,
    revision        INTEGER NOT NULL,
    shard           INTEGER NOT NULL,
    codec           INTEGER NOT NULL,
    manifest        TEXT NOT NULL,
    payload         BLOB,
    deleted         INTEGER NOT NULL DEFAULT 0,
    updated_at      INTEGER NOT NULL
);

-- AUTOINCREMENT: a node number is never used twice.
CREATE TABLE nodes (
    node_nr         INTEGER PRIMARY KEY AUTOINCREMENT,
    incarnation     INTEGER NOT NULL DEFAULT 0,
    address         TEXT,
    peer_address    TEXT,
    last_seen_at    INTEGER NOT NULL
);

CREATE TABLE writer_sessions (
    session         BLOB PRIMARY KEY,
    node_nr         INTEGER NOT NULL REFERENCES nodes,
    incarnation     INTEGER NOT NULL,
    started_at      INTEGER NOT NULL,
    fenced_at       INTEGER,
    -- JSON object: for a shard, the highest epoch the session may no longer write
    -- under. Usually empty.
    fenced_shards   TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;
-- For fencing the earlier sessions of a starting node.
CREATE INDEX writer_sessions_node ON writer_sessions (node_nr);

CREATE TABLE cluster (
    -- One row.
    one               INTEGER PRIMARY KEY CHECK (one = 1),
    cluster_id        BLOB NOT NULL,
    generation        INTEGER NOT NULL,
    number_of_shards  INTEGER NOT NULL,
    formed_at         INTEGER
);
