-- What nodes need to find each other and to agree who forms the cluster.

-- Who makes the raft group of this generation, until formed_at is set.
ALTER TABLE cluster ADD COLUMN forming_node INTEGER;

-- Grows with every sign of life. Others watch whether it changes, so that no two
-- clocks are compared.
ALTER TABLE nodes ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;

-- The generation of the cluster when the session began. Sessions of earlier ones are
-- fenced before anything is granted in a later one.
ALTER TABLE writer_sessions ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
