//! What a node measures about itself for its status page: rates and times of the last
//! seconds, which the metrics of the process do not have, and which differ between the
//! nodes of one process.
//!
//! [`CommandTally`] counts, [`Window`] (pure) makes rates of it, [`FigureSource`] takes
//! a sample every second and answers who asks. Next: `status_page.rs`, which asks all
//! nodes.

mod latencies;
mod window;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_sharding::control_plane::ControlPlane;
use perennial_sharding::peer::NodeFigures;
use perennial_sharding::raft::RaftControlPlane;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::latencies::Latencies;
pub(crate) use self::latencies::quantile;
use self::window::{Sample, Window};
use crate::node::engine_place::EnginePlace;

/// Between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Counts the commands of clients that a node answered. Counting allocates nothing.
#[derive(Default)]
pub(crate) struct CommandTally {
    answered: AtomicU64,
    failed: AtomicU64,
    latencies: Latencies,
}

impl CommandTally {
    /// A command was answered after `elapsed`; `failed` if not by its entity.
    pub(crate) fn answered(&self, elapsed: Duration, failed: bool) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.latencies.record(elapsed);
        if failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A command was refused before it was handed on.
    pub(crate) fn refused(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Knows a node's figures; clones are the same.
#[derive(Clone)]
pub(crate) struct FigureSource {
    commands: Arc<CommandTally>,
    engine: EnginePlace,
    control: RaftControlPlane,
    window: Arc<Mutex<Window>>,
    started: Instant,
}

impl FigureSource {
    pub(crate) fn new(engine: EnginePlace, control: RaftControlPlane) -> Self {
        Self {
            commands: Arc::default(),
            engine,
            control,
            window: Arc::default(),
            started: Instant::now(),
        }
    }

    /// Where the node's commands are counted.
    pub(crate) fn commands(&self) -> &Arc<CommandTally> {
        &self.commands
    }

    /// Takes a sample every second; never returns.
    pub(crate) async fn keep_up(self) {
        let mut ticks = interval(SAMPLE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let sample = Sample {
                at: self.started.elapsed(),
                answered: self.commands.answered.load(Ordering::Relaxed),
                failed: self.commands.failed.load(Ordering::Relaxed),
                latencies: self.commands.latencies.counts(),
                events: self.engine.get().map_or(0, |it| it.figures().events_stored),
            };
            self.window().push(sample);
        }
    }

    /// The figures as of the last sample, and of now where no sample is needed.
    pub(crate) fn now(&self) -> NodeFigures {
        let engine = self.engine.get().map(|engine| engine.figures());
        let index = self.control.state().borrow().index;
        let window = self.window();
        let rates = window.rates();
        let engine = engine.unwrap_or_default();
        NodeFigures {
            commands_per_second: rates.answered,
            failures_per_second: rates.failed,
            events_per_second: rates.events,
            latencies: window.latencies(),
            history: window.history(),
            live_entities: engine.live_entities as u64,
            commands_waiting: engine.commands_waiting as u64,
            recoveries_running: engine.recoveries_running as u64,
            recoveries_waiting: engine.recoveries_waiting as u64,
            recoveries_max: engine.recoveries_max as u64,
            journal_in_reach: !engine.journal_out_of_reach,
            index,
            uptime: self.started.elapsed(),
        }
    }

    fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        // Held for a push or a look, which leave it whole.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
