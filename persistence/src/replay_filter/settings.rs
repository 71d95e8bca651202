//! Settings of the replay filter: mode, window, memory for old writers.

use std::fmt;
use std::str::FromStr;

/// What is done about streams that two incarnations wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplayFilterMode {
    /// Keep the newer writer's events, discard the older's that overlap. Each
    /// discarded event is reported.
    #[default]
    RepairByDiscardOld,
    /// Fail the recovery at the first overlap.
    Fail,
    /// Report and keep all.
    Warn,
    /// No filter.
    Off,
}

impl ReplayFilterMode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::RepairByDiscardOld, Self::Fail, Self::Warn, Self::Off];

    /// The mode as it is written in settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RepairByDiscardOld => "repair-by-discard-old",
            Self::Fail => "fail",
            Self::Warn => "warn",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for ReplayFilterMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a mode of the replay filter: use repair-by-discard-old, fail, warn or off"
)]
pub struct UnknownReplayFilterMode {
    /// What was given.
    pub text: String,
}

impl FromStr for ReplayFilterMode {
    type Err = UnknownReplayFilterMode;

    /// Upper and lower case are the same.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownReplayFilterMode { text: text.into() })
    }
}

/// Settings `persistence.replay_filter.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayFilterSettings {
    /// What is done.
    pub mode: ReplayFilterMode,
    /// Events held back to look ahead, at least 1. Room is made before the next
    /// event is looked at, so that it is compared with one less than this. A
    /// wrong tail that is longer is seen, but its beginning has already reached
    /// the entity.
    pub window_size: usize,
    /// Retired writers remembered, at least 1. One that is forgotten and comes
    /// back is taken for a new writer.
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

/// A limit of the filter that is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("persistence.replay_filter.{key} is 0: use at least 1, or mode off to have no filter")]
pub struct InvalidReplayFilterSettings {
    /// The last part of the setting's key.
    pub key: &'static str,
}

impl ReplayFilterSettings {
    /// Checks the settings; to be called once, where they are read.
    ///
    /// # Errors
    /// [`InvalidReplayFilterSettings`] names the limit that is zero.
    pub fn validate(self) -> Result<Self, InvalidReplayFilterSettings> {
        if self.window_size == 0 {
            return Err(InvalidReplayFilterSettings { key: "window_size" });
        }
        if self.max_old_writers == 0 {
            return Err(InvalidReplayFilterSettings {
                key: "max_old_writers",
            });
        }
        Ok(self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_settings_table() {
        let settings = ReplayFilterSettings::default();
        assert_eq!(settings.mode, ReplayFilterMode::default());
        assert_eq!(settings.mode.to_string(), "repair-by-discard-old");
        assert_eq!(settings.window_size, 100);
        assert_eq!(settings.max_old_writers, 10);
        assert_eq!(settings.validate(), Ok(settings));
    }

    #[test]
    fn modes_are_read_in_any_case() {
        for mode in ReplayFilterMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
            assert_eq!(mode.to_string().to_uppercase().parse(), Ok(mode));
        }
        assert_eq!("Warn".parse(), Ok(ReplayFilterMode::Warn));
    }

    #[test]
    fn another_mode_is_an_error_that_lists_the_modes() {
        for text in ["", "disabled", "repair", " off"] {
            let error = text.parse::<ReplayFilterMode>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?}")), "{error}");
            for mode in ReplayFilterMode::ALL {
                assert!(error.contains(mode.as_str()), "{error}");
            }
        }
    }

    #[test]
    fn limits_of_zero_are_refused_by_name() {
        let settings = ReplayFilterSettings::default();
        let no_window = ReplayFilterSettings {
            window_size: 0,
            ..settings
        };
        let no_memory = ReplayFilterSettings {
            max_old_writers: 0,
            ..settings
        };
        for (settings, key) in [(no_window, "window_size"), (no_memory, "max_old_writers")] {
            let error = settings.validate().unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
        let least = ReplayFilterSettings {
            window_size: 1,
            max_old_writers: 1,
            ..settings
        };
        assert_eq!(least.validate(), Ok(least));
    }
}
