//! What `deploy/` already uses and this binary does not have yet. A name that has come
//! fails here, so that the list ends by itself.

use perennial::Settings;
use perennial::cli;

use crate::command_line::{find_command, has_flag};
use crate::files::read;
use crate::monitoring::measured;

/// Subcommands, and flags of subcommands.
pub(crate) const COMMANDS: &[&str] = &[];

/// Flags, each with a command that will have it.
pub(crate) const FLAGS: &[(&str, &str)] = &[];

/// Settings.
pub(crate) const SETTINGS: &[&str] = &[];

/// Metrics.
pub(crate) const METRICS: &[&str] = &[];

#[test]
fn what_has_come_is_not_to_come() {
    let definition = cli::definition();
    for path in COMMANDS {
        let words: Vec<&str> = path.split(' ').collect();
        let (_, rest) = find_command(&definition, &words);
        assert!(
            !rest.is_empty(),
            "`{path}` has come: delete it from COMMANDS"
        );
    }
    for (path, flag) in FLAGS {
        let words: Vec<&str> = path.split(' ').collect();
        let (command, rest) = find_command(&definition, &words);
        assert!(rest.is_empty(), "there is no command `{path}`");
        assert!(
            !has_flag(command, flag),
            "--{flag} of `{path}` has come: delete it from FLAGS"
        );
    }
    for name in SETTINGS {
        let known = Settings::keys().any(|key| key.name == *name);
        assert!(!known, "{name} has come: delete it from SETTINGS");
    }
    let measured = measured();
    let asked = read("monitoring/alerts.yaml") + &read("monitoring/dashboard.json");
    for name in METRICS {
        let known = measured.contains(*name);
        assert!(!known, "{name} has come: delete it from METRICS");
        assert!(
            asked.contains(name),
            "nothing asks for {name}: delete it from METRICS"
        );
    }
}
