use std::io::Write;

use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn variable(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn load_file(text: &str) -> Result<Settings, SettingsError> {
    Settings::load(Some(file(text).path()), [], &[])
}

#[test]
fn every_default_is_a_good_value() {
    let settings = Settings::default();
    assert_eq!(settings.engine.max_payload, 1 << 20);
    assert_eq!(settings.max_in_flight, 10_000);
    assert_eq!(settings.engine.idle_timeout, Duration::from_secs(120));
    assert_eq!(settings.number_of_shards, 1024);
    assert!(settings.engine.workers >= 1);
}

/// The defaults of the settings, of the engine and of the storage are the same.
#[test]
fn defaults_are_those_of_the_engine() {
    let settings = Settings::default();
    let (engine, storage) = (EngineSettings::default(), StorageOptions::default());
    assert_eq!(format!("{:?}", settings.engine), format!("{engine:?}"));
    assert_eq!(format!("{:?}", settings.storage), format!("{storage:?}"));
}

#[test]
fn every_key_is_documented() {
    let mut names: Vec<&str> = Settings::keys().map(|key| key.name).collect();
    for key in Settings::keys() {
        assert!(key.name.contains('.'), "{} has no section", key.name);
        assert!(
            key.doc.len() > 40,
            "{} needs a reason to change it",
            key.name
        );
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Settings::keys().count(), "a key stands twice");
}

/// Every key of the reference file exists, and every key stands in it.
#[test]
fn the_reference_file_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("perennial.toml");
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == Settings::reference(),
        "run `cargo run -- config > node/perennial.toml`"
    );
    let settings = Settings::load(Some(&path), [], &[]).unwrap();
    assert_eq!(
        format!("{settings:?}"),
        format!("{:?}", Settings::default())
    );
    let keys: Vec<String> = entries(&read_file(&path).unwrap(), &path)
        .unwrap()
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    for key in Settings::keys() {
        assert!(keys.iter().any(|name| name == key.name), "{}", key.name);
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = file(
        "[persistence.snapshot]\nevery = 1\nkeep = 3\n[node]\nmax_in_flight = 5\nmax_payload = \"2MiB\"",
    );
    let environment = [
        variable("PERENNIAL_PERSISTENCE__SNAPSHOT__EVERY", "2"),
        variable("PERENNIAL_NODE__MAX_IN_FLIGHT", "6"),
        variable("PERENNIAL_PERSISTENCE__JOURNAL__URL", "sqlite:a"),
        variable("PERENNIAL_ADDRESS", "not a setting"),
        variable("OTHER__VARIABLE", "not ours"),
    ];
    let flags = [(
        "persistence.journal.url",
        "sqlite:b".to_owned(),
        "--journal",
    )];
    let settings = Settings::load(Some(file.path()), environment, &flags).unwrap();
    assert_eq!(settings.engine.retention.every, 2);
    assert_eq!(settings.engine.retention.keep, 3);
    assert_eq!(settings.max_in_flight, 6);
    assert_eq!(settings.engine.max_payload, 2 << 20);
    assert_eq!(settings.journal_url.unwrap().to_string(), "sqlite:b");
}

/// A secret that comes as a file, with the line end that editors leave there.
#[test]
fn the_journal_may_stand_in_a_file_of_its_own() {
    let secret = file("postgres://u:hunter2@h/d\n");
    let path = secret.path().to_str().unwrap();
    let settings = load_file(&format!("[persistence.journal]\nurl_file = \"{path}\"")).unwrap();
    assert!(
        settings
            .journal_url
            .unwrap()
            .to_string()
            .starts_with("postgres://u@h")
    );

    // The stronger place counts, and in the same place the file.
    let weaker = file("[persistence.journal]\nurl = \"sqlite:weaker\"");
    let environment = [
        variable("PERENNIAL_PERSISTENCE__JOURNAL__URL_FILE", path),
        variable("PERENNIAL_PERSISTENCE__JOURNAL__URL", "sqlite:same"),
    ];
    let settings = Settings::load(Some(weaker.path()), environment.clone(), &[]).unwrap();
    assert!(
        settings
            .journal_url
            .unwrap()
            .to_string()
            .starts_with("postgres://u@h")
    );
    let flag = (
        "persistence.journal.url",
        "sqlite:b".to_owned(),
        "--journal",
    );
    let settings = Settings::load(None, environment, &[flag]).unwrap();
    assert_eq!(settings.journal_url.unwrap().to_string(), "sqlite:b");
}

#[test]
fn a_file_without_a_journal_in_it_is_named_and_not_shown() {
    let secret = file("carrier:hunter2");
    for path in [secret.path(), Path::new("no/such/secret")] {
        let path = path.to_str().unwrap();
        let text = format!("[persistence.journal]\nurl_file = \"{path}\"");
        let error = load_file(&text).unwrap_err();
        assert!(matches!(error, SettingsError::BadValue { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(path), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn an_unknown_key_is_named_with_its_value_and_source() {
    let error = load_file("[persistence.snapshot]\nevry = 7")
        .unwrap_err()
        .to_string();
    for part in [
        "persistence.snapshot.evry",
        "\"7\"",
        "file ",
        "persistence.snapshot.every",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let environment = [variable("PERENNIAL_NODE__MAX_INFLIGHT", "7")];
    let error = Settings::load(None, environment, &[])
        .unwrap_err()
        .to_string();
    for part in [
        "node.max_inflight",
        "environment variable PERENNIAL_NODE__MAX_INFLIGHT",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

/// Keys that come later do nothing yet, so they are not accepted.
#[test]
fn later_keys_are_refused() {
    for text in ["[node.tls]\ncert = \"x\"", "node = 1"] {
        let error = load_file(text).unwrap_err();
        assert!(matches!(error, SettingsError::UnknownKey { .. }), "{error}");
    }
}

#[test]
fn a_bad_value_is_named_with_what_was_expected() {
    for (text, expected) in [
        ("[persistence]\nappend_timeout = 10", "with its unit"),
        ("[persistence]\nworkers = \"many\"", "\"cores\""),
        ("[persistence]\nworkers = [1]", "\"cores\""),
        (
            "[persistence.replay_filter]\nmode = \"repair\"",
            "\"repair-by-discard-old\"",
        ),
        ("[node]\nmax_payload = \"1MB\"", "KiB"),
        ("[sharding]\nnumber_of_shards = 0", "from 1"),
        ("[sharding.rebalance]\nmax_simultaneous = \"0%\"", "share"),
        ("[cluster]\nvoters = 2", "\"3\""),
        ("[cluster]\nreads = \"clock\"", "\"journal\""),
        ("[cluster]\nlease = 2", "with its unit"),
        (
            "[sharding.passivation]\nidle_timeouts = \"cart=10\"",
            "with a time and its unit",
        ),
        (
            "[sharding.passivation]\nidle_timeouts = \"a|b=1s\"",
            "entity type",
        ),
        (
            "[sharding.passivation]\nidle_timeouts = \"cart=1s, cart=2s\"",
            "once",
        ),
    ] {
        let error = load_file(text).unwrap_err();
        assert!(matches!(error, SettingsError::BadValue { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn what_is_kept_can_be_set() {
    let settings =
        load_file("[persistence]\ncommand_id_horizon = \"36h\"\npublication_capacity = 16")
            .unwrap();
    let horizon = settings.storage.command_id_horizon;
    assert_eq!(horizon, Duration::from_secs(36 * 3600));
    assert_eq!(settings.engine.publication_capacity, 16);
    let defaults = Settings::default();
    let horizon = defaults.storage.command_id_horizon;
    assert_eq!(horizon, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(defaults.engine.publication_capacity, 4096);
    for text in [
        "[persistence]\ncommand_id_horizon = \"0s\"",
        "[persistence]\ncommand_id_horizon = 7",
        "[persistence]\npublication_capacity = 0",
    ] {
        assert!(load_file(text).is_err(), "{text}");
    }
}

#[test]
fn contradicting_settings_are_refused() {
    let error = load_file("[persistence.backoff]\nmin = \"1min\"").unwrap_err();
    assert!(matches!(error, SettingsError::Backoff(_)), "{error}");
    for (text, named) in [
        ("lease = \"1900ms\"", "cluster.down_after"),
        ("down_after = \"1s\"", "cluster.down_after"),
        (
            "heartbeat_interval = \"600ms\"",
            "cluster.heartbeat_interval",
        ),
        ("raft.heartbeat = \"300ms\"", "cluster.raft.heartbeat"),
        ("raft.election_max = \"400ms\"", "cluster.raft.election_max"),
    ] {
        let error = load_file(&format!("[cluster]\n{text}")).unwrap_err();
        assert!(matches!(error, SettingsError::Cluster(_)), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

/// A command must not be refused while a node is replaced or a shard is taken away.
#[test]
fn who_waits_for_a_home_waits_longer_than_anything_takes() {
    for (text, named) in [
        (
            "sharding.homeless_max = \"11s\"",
            "sharding.handoff_timeout",
        ),
        ("cluster.down_after = \"13s\"", "cluster.down_after"),
        (
            "sharding.handoff_timeout = \"14s\"",
            "sharding.homeless_max",
        ),
        ("cluster.lease_grace = \"15s\"", "cluster.lease_grace"),
    ] {
        let error = load_file(text).unwrap_err();
        assert!(matches!(error, SettingsError::Cluster(_)), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
    for good in [
        "sharding.homeless_max = \"11100ms\"",
        "cluster.lease_grace = \"14s\"",
        "sharding.handoff_timeout = \"3s\"\nsharding.homeless_max = \"4100ms\"",
    ] {
        load_file(good).unwrap();
    }
}

#[test]
fn types_may_have_idle_times_of_their_own() {
    let timeouts = |text: &str| {
        let text = format!("[sharding.passivation]\nidle_timeouts = \"{text}\"");
        load_file(&text).unwrap().engine.idle_timeouts
    };
    let expected = [
        ("cart".to_owned(), Duration::from_secs(600)),
        ("device".to_owned(), Duration::from_millis(500)),
    ];
    assert_eq!(timeouts(" cart = 10min,device=500ms, "), expected.into());
    assert!(timeouts("").is_empty());
}

#[test]
fn a_share_of_the_shards_is_at_least_one() {
    let moved = |text: &str, of| {
        let settings = load_file(&format!("[sharding.rebalance]\nmax_simultaneous = {text}"));
        settings.unwrap().sharding.rebalance_max_simultaneous.of(of)
    };
    assert_eq!(moved("\"10%\"", 1024), 102);
    assert_eq!(moved("\"1 %\"", 16), 1);
    assert_eq!(moved("7", 1024), 7);
}

#[test]
fn a_file_that_is_missing_or_not_toml_is_named() {
    let error = Settings::load(Some(Path::new("no/such/file.toml")), [], &[]).unwrap_err();
    assert!(error.to_string().contains("no/such/file.toml"), "{error}");
    let error = load_file("[persistence").unwrap_err();
    assert!(matches!(error, SettingsError::Syntax { .. }), "{error}");
}

#[test]
fn a_password_is_not_shown() {
    let flags = [(
        "persistence.journal.url",
        "postgres://u:hunter2@h/d".to_owned(),
        "--journal",
    )];
    let settings = Settings::load(None, [], &flags).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
    let misspelt = load_file("[persistence.journal]\nurll = \"postgres://u:hunter2@h/d\"");
    let error = misspelt.unwrap_err().to_string();
    assert!(error.contains("postgres:***"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let flags = [(
        "persistence.journal.url",
        "carrier:hunter2".to_owned(),
        "--journal",
    )];
    let error = Settings::load(None, [], &flags).unwrap_err().to_string();
    assert!(
        error.contains("--journal") && error.contains("sqlite:"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}
