//! What the binary does with arguments it cannot use. What it does with good
//! ones is tested with real nodes, in the crate `tests`.

#![allow(clippy::unwrap_used, missing_docs)]

use std::process::{Command, Output};

fn perennial(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_perennial"))
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn wrong_arguments_end_with_2_and_say_which() {
    for (args, word) in [
        (&["nonsense"][..], "nonsense"),
        (&["send", "counter"], "ENTITY_ID"),
        (&["send", "counter", "a", "1", "--nonsense"], "--nonsense"),
        (&["state", "counter", "a", "--at", "x"], "--at"),
        (&["state", "counter", "a", "--timeout", "5"], "--timeout"),
        (&["load", "counter", "f", "--id-column", "a"], "--command"),
        (
            &["load", "counter", "f", "--outstanding", "0"],
            "--outstanding",
        ),
        (&["state", "counter", "a", "--output", "xml"], "--output"),
        (&["send", "counter", "a", "1", "--address", "a b"], "a b"),
        (&["dev", "--listen", "7400"], "--listen"),
        (&["dev", "--journal", "carrier:pigeon"], "--journal"),
        (&["dev", "--listen", "0.0.0.0:0"], "0.0.0.0:0"),
        (&["serve"], "--journal"),
        (&["journal", "migrate"], "--journal"),
        (&["cluster", "reform"], "--journal"),
        (&["dev", "--nodes", "0"], "--nodes"),
        (&["dev", "--nodes", "2", "--advertise", "a"], "--advertise"),
        (
            &["dev", "--nodes", "2", "--listen", "127.0.0.1:65530"],
            "65530",
        ),
        (&["journal", "verify"], "--journal"),
    ] {
        let output = perennial(args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(word), "{args:?}: {text}");
    }
}

#[test]
fn errors_are_one_line_or_json() {
    let args = ["health", "--address", "127.0.0.1:1"];
    let output = perennial(&args);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("127.0.0.1:1"), "{text}");
    assert!(text.contains("--address"), "{text}");

    let output = perennial(&[&args[..], &["--output", "json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(json["error"]["status"], "UNAVAILABLE");
    assert_eq!(json["error"]["applied"], "no");
}

#[test]
fn the_settings_it_prints_are_the_documented_ones() {
    let output = perennial(&["config"]);
    let documented = include_str!("../perennial.toml");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), documented);
}

/// A node that cannot start says why, and not with which password it tried.
#[test]
fn a_failed_start_does_not_show_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--peer-listen",
        "127.0.0.1:0",
        "--data-dir",
        data,
    ];
    for url in [
        "postgres://ada:geheim@127.0.0.1:1/shop",
        "postgres://ada:geheim@127.0.0.1:port/shop",
        "postgres://ada@127.0.0.1:1/shop?passwrod=geheim",
    ] {
        for args in [
            [&["dev", "--journal", url], &flags[..]].concat(),
            vec!["journal", "migrate", "--journal", url],
        ] {
            let output = perennial(&args);
            assert!(!output.status.success(), "{args:?}");
            for text in [output.stdout, output.stderr] {
                let text = String::from_utf8(text).unwrap();
                assert!(!text.contains("geheim"), "{args:?}: {text}");
            }
        }
    }
}
