//! Settings of the entity engine and its journal.

use std::time::Duration;

use perennial_persistence::engine::StashOverflow;
use perennial_persistence::replay_filter::ReplayFilterMode;
use perennial_persistence::storage::StorageUrl;

use super::Key;
use super::value::{Expected, choice, count, duration, factor};

const SHORTEST: Duration = Duration::from_millis(1);

/// The keys, as documented.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "persistence.max_concurrent_recoveries",
        default: "128",
        doc: "Entities of a node that recover at once; the others wait their turn. Raise it when \
              recoveries wait and the journal is idle, lower it when recoveries slow down appends.",
        set: |settings, text| {
            settings.engine.max_concurrent_recoveries = count(text, 1..=100_000)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.recovery_event_timeout",
        default: "30s",
        doc: "How long a recovery may wait for its next rows before it fails. Raise it for a slow \
              or far journal.",
        set: |settings, text| {
            settings.engine.recovery_event_timeout = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.stash_capacity",
        default: "4096",
        doc: "Commands that may wait for one entity, those it has put aside included. Lower it to \
              shed load of hot entities earlier.",
        set: |settings, text| {
            settings.engine.stash_capacity = count(text, 1..=10_000_000)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.stash_total",
        default: "1000000",
        doc: "Commands that may wait for all entities of a node together; further ones are answered \
              STASH_FULL, except the next one of an entity in memory for which none waits. Lower it \
              when the node is short of memory.",
        set: |settings, text| {
            settings.engine.stash_total = count(text, 1..=1_000_000_000)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.stash_overflow",
        default: "reply",
        doc: "What becomes of a command beyond stash_capacity: \"reply\" answers STASH_FULL, \"fail\" \
              answers it too and stops the entity, which refuses what waits and is back after its \
              back-off, \"drop\" answers OVERLOADED and logs a warning.",
        set: |settings, text| {
            settings.engine.stash_overflow = choice(
                text,
                &[
                    ("reply", StashOverflow::Reply),
                    ("fail", StashOverflow::Fail),
                    ("drop", StashOverflow::Drop),
                ],
            )?;
            Ok(())
        },
    },
    Key {
        name: "persistence.append_timeout",
        default: "10s",
        doc: "How long an append may be undecided before its commands are answered PERSIST_FAILED. \
              Raise it to ride out a longer failover of the database.",
        set: |settings, text| {
            settings.storage.append_timeout = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.command_id_horizon",
        default: "7days",
        doc: "How long a command that is sent again with the same id still gets its first reply after \
              its events were deleted. Longer than any client retries; raise it for clients that are \
              away for long, lower it to keep less.",
        set: |settings, text| {
            settings.storage.command_id_horizon = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.publication_capacity",
        default: "4096",
        doc: "Stored events a node keeps for subscribers in the same process that lag behind; one \
              that lags further misses events, and is told so. Raise it for bursts, lower it when \
              events are large.",
        set: |settings, text| {
            settings.engine.publication_capacity = count(text, 1..=1_000_000)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.workers",
        default: "cores",
        doc: "Tasks that run entities; \"cores\" means one for each processor core. Lower it to \
              leave cores to others on the machine.",
        set: |settings, text| {
            settings.engine.workers = match text {
                "cores" => std::thread::available_parallelism().map_or(1, usize::from),
                number => count(number, 1..=1024)
                    .map_err(|expected| format!("\"cores\", or {expected}"))?,
            };
            Ok(())
        },
    },
    Key {
        name: "persistence.journal.url",
        default: "",
        doc: "Where events are stored: \"sqlite:FILE\" or \"postgres://USER:PASSWORD@HOST/DATABASE\". \
              Empty means a SQLite file in the data directory for `dev`; `serve` requires it.",
        set: |settings, text| {
            settings.journal_url = match text {
                "" => None,
                text => Some(StorageUrl::parse(text).map_err(|error| error.to_string())?),
            };
            Ok(())
        },
    },
    Key {
        name: "persistence.journal.url_file",
        default: "",
        doc: "A file that holds what persistence.journal.url would say, and nothing else; read at \
              the start. For passwords that come as files, as secrets in containers do. Of the \
              two the one given in the stronger place counts, in the same place this one.",
        set: |settings, text| {
            if !text.is_empty() {
                settings.journal_url = Some(read_url(text)?);
            }
            Ok(())
        },
    },
    Key {
        name: "persistence.postgres.lanes",
        default: "2",
        doc: "Connections that append to Postgres, each a batch at a time. Raise it when appends \
              are far (a slow round trip) and the database has cores to spare.",
        set: |settings, text| {
            settings.storage.lanes = count(text, 1..=64)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.postgres.recovery_connections",
        default: "8",
        doc: "Connections that read from Postgres: recoveries, events, listings. Lower it when \
              the database is short of connections.",
        set: |settings, text| {
            settings.storage.recovery_connections = count(text, 1..=1000)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.circuit_breaker.max_failures",
        default: "10",
        doc: "Failures of the journal in a row after which it is left alone: commands are answered \
              JOURNAL_UNAVAILABLE, entities stay in memory, and a probe tries whether it is back.",
        set: |settings, text| {
            settings.engine.circuit_breaker.max_failures = count(text, 1..=1_000_000)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.circuit_breaker.call_timeout",
        default: "10s",
        doc: "A call of the journal that takes longer counts as failed. Raise it for a slow or \
              far journal.",
        set: |settings, text| {
            settings.engine.circuit_breaker.call_timeout = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.circuit_breaker.reset_timeout",
        default: "1s",
        doc: "Time between two probes, on average. Lower it to be back sooner, raise it to spare a \
              journal that many nodes wait for.",
        set: |settings, text| {
            settings.engine.circuit_breaker.reset_timeout = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.snapshot.every",
        default: "100",
        doc: "Events between two snapshots of an entity; 0 for no snapshots. Lower it for faster \
              recoveries, raise it when states are large.",
        set: |settings, text| {
            settings.engine.retention.every = count(text, 0..=u32::MAX)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.snapshot.keep",
        default: "2",
        doc: "Snapshots kept of an entity. More than one, so that an unreadable one is no loss.",
        set: |settings, text| {
            settings.engine.retention.keep = count(text, 1..=1_000_000)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.replay_filter.mode",
        default: "repair-by-discard-old",
        doc: "What a recovery does about events that two incarnations of an entity wrote, as in an \
              imported or merged journal: \"repair-by-discard-old\" keeps the newer writer's, \
              \"fail\" fails the recovery, \"warn\" keeps all and logs, \"off\" does not look.",
        set: |settings, text| {
            settings.engine.replay_filter.mode = choice(
                text,
                &[
                    (
                        "repair-by-discard-old",
                        ReplayFilterMode::RepairByDiscardOld,
                    ),
                    ("fail", ReplayFilterMode::Fail),
                    ("warn", ReplayFilterMode::Warn),
                    ("off", ReplayFilterMode::Off),
                ],
            )?;
            Ok(())
        },
    },
    Key {
        name: "persistence.replay_filter.window_size",
        default: "100",
        doc: "Events the filter looks ahead for a newer writer. Raise it when writers overlapped \
              for longer; each recovery holds so many events back.",
        set: |settings, text| {
            settings.engine.replay_filter.window_size = count(text, 1..=100_000)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.replay_filter.max_old_writers",
        default: "10",
        doc: "Former writers of a stream the filter remembers. Raise it for journals merged from \
              many sources.",
        set: |settings, text| {
            settings.engine.replay_filter.max_old_writers = count(text, 1..=100_000)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.backoff.min",
        default: "3s",
        doc: "How long an entity that failed is not restarted, the first time; it doubles with \
              each failure.",
        set: |settings, text| {
            settings.engine.backoff.min = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.backoff.max",
        default: "30s",
        doc: "The longest such time. Lower it when failures pass quickly.",
        set: |settings, text| {
            settings.engine.backoff.max = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "persistence.backoff.random_factor",
        default: "0.2",
        doc: "Random share added to each such time, so that entities that failed together do not \
              restart together.",
        set: |settings, text| {
            settings.engine.backoff.random_factor = factor(text, 0.0..=1.0)?;
            Ok(())
        },
    },
];

/// The URL in a file. Errors do not show it, because it may hold a password.
fn read_url(path: &str) -> Result<StorageUrl, Expected> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("a file with the journal's URL that can be read ({error})"))?;
    StorageUrl::parse(text.trim())
        .map_err(|error| format!("a file with nothing but a good URL in it ({error})"))
}
