-- The tables of Perennial in Postgres, all in the schema "perennial", which the
-- migrator has made.
--
-- Ids are COLLATE "C": they compare by bytes, so listings are in byte order, the
-- index needs no collation library, and an upgrade of that library cannot break it.

-- Measured with Postgres 15 and 1,000,000 events of 50,000 streams, written in turns
-- in transactions of 128, ids of 24 bytes, payloads of 21: 234 bytes on disk per
-- event, of which the rows take 149, events_pkey 78 and events_global_order 7. With
-- a command id of 36 bytes and a reply of 11 it is 393: rows 200, events_command_id 108.
--
-- Not there, because they cost more than they give:
-- * a column for the entity type: 9 bytes per event for what the id begins with;
-- * an index on (tx, ordering): 32 bytes per event instead of 7, see below.
--
-- Rows are only inserted and deleted, so pages are filled to the brim (the default).
CREATE TABLE perennial.events (
    -- Fixed-width columns first, wide ones before narrow ones: no padding between
    -- them. With the id first it is 9 bytes more per event.
    sequence_nr     bigint NOT NULL CHECK (sequence_nr > 0),
    -- The global order is (tx, ordering), read below the oldest running
    -- transaction. The identity's cache is harmless: tx decides between
    -- connections, and within one connection a cache counts in order.
    tx              bigint NOT NULL,
    ordering        bigint GENERATED ALWAYS AS IDENTITY (CACHE 64) NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    writer_uuid     uuid NOT NULL,
    shard           integer NOT NULL,
    -- On the first event of an atomic write: how many events it has.
    write_len       integer,
    codec           smallint NOT NULL,
    -- On the first event of an atomic write that comes from a command with an id:
    -- the id and the reply a retry gets.
    reply_codec     smallint,
    persistence_id  text COLLATE "C" NOT NULL,
    manifest        text NOT NULL,
    payload         bytea NOT NULL,
    -- NULL, the usual case, takes no space.
    tags            text[],
    metadata        jsonb,
    command_id      text COLLATE "C",
    reply_manifest  text,
    reply           bytea,
    -- One stream has one event per number (I-3). Every read is a range of it. Streams
    -- grow everywhere in it, so its pages are two thirds full in the long run, and a
    -- fill factor, which is for pages at the right edge, would not change that.
    CONSTRAINT events_pkey PRIMARY KEY (persistence_id, sequence_nr)
);

-- A command has its effect once (I-8). Partial: events without one cost nothing.
CREATE UNIQUE INDEX events_command_id ON perennial.events (persistence_id, command_id)
    WHERE command_id IS NOT NULL;

-- For readers of all events. Events of one transaction share an entry, and are
-- sorted by "ordering" when they are read: they are few, because batches are
-- bounded. Where each event has a transaction of its own it is 22 bytes per event
-- (31 with "ordering"). Inserts go to its right edge, so pages can be full.
CREATE INDEX events_global_order ON perennial.events (tx) WITH (fillfactor = 100);

-- A row only for streams from which events were deleted: their highest number
-- must not be forgotten with the events.
CREATE TABLE perennial.streams (
    persistence_id  text COLLATE "C" PRIMARY KEY,
    highest         bigint NOT NULL,
    deleted_to      bigint NOT NULL,
    -- The entity was deleted as a whole: at which number, and when. What it was up
    -- to that number must not come back, even if rows of it are still there because
    -- the deletion was interrupted.
    tombstone       bigint,
    tombstone_at    timestamptz
-- Updated by every further deletion. Room on the page keeps that out of the index.
) WITH (fillfactor = 90);

-- Command ids outlive their deleted events, until the horizon.
CREATE TABLE perennial.deleted_commands (
    persistence_id  text COLLATE "C" NOT NULL,
    command_id      text COLLATE "C" NOT NULL,
    -- Of the last event of the write.
    sequence_nr     bigint NOT NULL,
    reply_codec     smallint NOT NULL,
    reply_manifest  text NOT NULL,
    reply           bytea NOT NULL,
    deleted_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (persistence_id, command_id)
);
-- For the sweep of those beyond the horizon.
CREATE INDEX deleted_commands_deleted_at ON perennial.deleted_commands (deleted_at);

CREATE TABLE perennial.snapshots (
    persistence_id  text COLLATE "C" NOT NULL,
    sequence_nr     bigint NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    shard           integer NOT NULL,
    codec           smallint NOT NULL,
    manifest        text NOT NULL,
    payload         bytea NOT NULL,
    PRIMARY KEY (persistence_id, sequence_nr)
);

-- Durable state: the latest value only.
CREATE TABLE perennial.states (
    persistence_id  text COLLATE "C" PRIMARY KEY,
    revision        bigint NOT NULL,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    shard           integer NOT NULL,
    codec           smallint NOT NULL,
    deleted         boolean NOT NULL DEFAULT false,
    manifest        text NOT NULL,
    payload         bytea
-- Updated by every command. Room on the page keeps that out of the index.
) WITH (fillfactor = 80);

-- An identity is never used twice, not even after a rollback.
CREATE TABLE perennial.nodes (
    node_nr         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incarnation     bigint NOT NULL DEFAULT 0,
    address         text,
    peer_address    text,
    last_seen_at    timestamptz NOT NULL DEFAULT now()
);

-- One row per session and lane, so that appends on different lanes do not lock
-- the same row (shared locks of one row by several transactions cost a multixact).
-- Lane 0 is for writes other than appends; lane n + 1 is the journal's lane n.
CREATE TABLE perennial.writer_sessions (
    session         uuid NOT NULL,
    lane            integer NOT NULL,
    node_nr         bigint NOT NULL REFERENCES perennial.nodes,
    incarnation     bigint NOT NULL,
    started_at      timestamptz NOT NULL DEFAULT now(),
    fenced_at       timestamptz,
    -- For a shard, the highest epoch the session may no longer write under.
    -- Usually empty.
    fenced_shards   jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (session, lane)
);
-- For fencing the earlier sessions of a starting node.
CREATE INDEX writer_sessions_node ON perennial.writer_sessions (node_nr);

CREATE TABLE perennial.cluster (
    -- One row.
    one                boolean PRIMARY KEY DEFAULT true CHECK (one),
    cluster_id         uuid NOT NULL,
    generation         integer NOT NULL,
    number_of_shards   integer NOT NULL,
    formed_at          timestamptz,
    -- Added to transaction numbers. It grows when the database turns up on another
    -- server, whose transaction numbers may be lower, so that tx never goes back.
    tx_offset          bigint NOT NULL DEFAULT 0,
    system_identifier  bigint
);
