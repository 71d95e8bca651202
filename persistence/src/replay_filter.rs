//! Placeholder replaced by the complete filter.

/// What is done about streams that two incarnations wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplayFilterMode {
    /// Keep the newer writer's events, discard the older's that overlap.
    #[default]
    RepairByDiscardOld,
    /// Fail the recovery.
    Fail,
    /// Log and keep all.
    Warn,
    /// No filter.
    Off,
}

/// Settings of the replay filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayFilterSettings {
    /// What is done.
    pub mode: ReplayFilterMode,
    /// Events held back to look ahead, at least 1.
    pub window_size: usize,
    /// Retired writers remembered, at least 1.
    pub max_old_writers: usize,
}

impl Default for ReplayFilterSettings {
    fn default() -> Self {
        Self {
            mode: ReplayFilterMode::RepairByDiscardOld,
            window_size: 100,
            max_old_writers: 10,
        }
    }
}
