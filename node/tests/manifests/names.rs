//! Arguments, variables and settings in manifests, in `compose.yaml` and in the image.

use perennial::Settings;
use perennial::cli;
use perennial::config::Source;
use serde_json::Value;

use crate::command_line::{assert_understood, find_command};
use crate::files::{Document, documents, list, manifests, mappings, names_ending, read};
use crate::to_come;

/// Arguments of our containers, with where they stand. A list that a patch adds to is
/// taken as if it were the end of `serve`.
fn argument_lists() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut add = |place: String, values: &[Value]| {
        let arguments = values
            .iter()
            .map(|value| value.as_str().unwrap().to_owned())
            .collect();
        found.push((place, arguments));
    };
    for document in manifests() {
        for map in mappings(&document.yaml) {
            if let Some(Value::Array(values)) = map.get("args") {
                add(document.shown(), values);
            }
            // A patch in a kustomization is a text.
            let Some(patch) = map.get("patch").and_then(Value::as_str) else {
                continue;
            };
            let operations: Value = serde_saphyr::from_str(patch).unwrap();
            for operation in list(&operations, "") {
                let path = operation["path"].as_str().unwrap();
                if path.ends_with("/args/-") {
                    add(
                        document.shown(),
                        &[Value::from("serve"), operation["value"].clone()],
                    );
                } else {
                    assert!(
                        !path.contains("/args"),
                        "{}: {path} is not checked",
                        document.shown()
                    );
                }
            }
        }
    }
    for service in services() {
        add(
            format!("compose.yaml: {}", service.0),
            service.1["command"].as_array().unwrap(),
        );
    }
    found
}

/// Services of `compose.yaml` that run our image, with what they inherit.
fn services() -> Vec<(String, Value)> {
    let compose = documents("compose.yaml").remove(0).yaml;
    let services = compose["services"].as_object().unwrap().clone();
    let ours = |service: &Value| {
        service["image"]
            .as_str()
            .is_some_and(|image| image.starts_with("perennial:"))
    };
    services
        .into_iter()
        .filter(|(_, service)| ours(service))
        .collect()
}

/// Variables of our containers, with where they stand.
fn variables() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for document in manifests() {
        for map in mappings(&document.yaml) {
            let Some(Value::Array(variables)) = map.get("env") else {
                continue;
            };
            for variable in variables {
                let text = |key: &str| variable[key].as_str().unwrap_or_default().to_owned();
                found.push((document.shown(), text("name"), text("value")));
            }
        }
    }
    for (service, yaml) in services() {
        for (name, value) in yaml["environment"].as_object().unwrap() {
            let value = value.as_str().unwrap().to_owned();
            found.push((format!("compose.yaml: {service}"), name.clone(), value));
        }
    }
    found
}

#[test]
fn the_binary_understands_all_arguments() {
    let lists = argument_lists();
    for (place, arguments) in &lists {
        assert_understood(arguments, place);
    }
    // Nodes and migration in base, reform, --insecure in dev, the same four in compose.
    assert_eq!(lists.len(), 2 + 1 + 1 + 4, "{lists:?}");
}

#[test]
fn the_image_starts_a_node_and_asks_it_for_its_health() {
    let text = read("Containerfile");
    let instruction = |start: &str| {
        let line = text.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no {start}")).to_owned()
    };
    let json = |line: &str| -> Vec<String> {
        serde_json::from_str(&line[line.find('[').unwrap()..]).unwrap()
    };
    assert_eq!(json(&instruction("ENTRYPOINT")), ["perennial"]);
    assert_understood(&json(&instruction("CMD")), "CMD");
    let health = json(&instruction("HEALTHCHECK"));
    assert_eq!(health[0], "perennial");
    assert_understood(&health[1..], "HEALTHCHECK");
    assert_eq!(instruction("STOPSIGNAL"), "STOPSIGNAL SIGTERM");
    assert_eq!(instruction("EXPOSE"), "EXPOSE 7400 7401 7402");
    let user = instruction("USER");
    assert!(
        user["USER ".len()..]
            .split(':')
            .all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)),
        "{user}"
    );
    let version = format!("ARG VERSION={}", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&version), "{version}");
}

/// A member that is not sent along stops the build before it has begun.
#[test]
fn every_member_of_the_workspace_is_sent_to_the_build_of_the_image() {
    let workspace: toml::Value = toml::from_str(&read("../Cargo.toml")).unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    let text = read("Containerfile.dockerignore");
    let is_sent = |path: &str| text.lines().any(|line| line == format!("!{path}"));
    for member in members.iter().map(|member| member.as_str().unwrap()) {
        let named = ["Cargo.toml", "src/lib.rs"].map(|file| format!("{member}/{file}"));
        assert!(
            is_sent(member) || named.iter().all(|path| is_sent(path)),
            "{member}"
        );
    }
}

#[test]
fn every_version_is_this_one() {
    let version = env!("CARGO_PKG_VERSION");
    let base = documents("kubernetes/base/kustomization.yaml").remove(0);
    assert_eq!(base.text("/images/0/newTag"), version);
    let reform = documents("kubernetes/reform.yaml").remove(0);
    let image = reform.text("/spec/template/spec/containers/0/image");
    assert_eq!(image, format!("perennial:{version}"));
    for (service, yaml) in services() {
        assert_eq!(yaml["image"], format!("perennial:{version}"), "{service}");
    }
}

#[test]
fn every_variable_is_known_to_the_binary_or_used_in_its_arguments() {
    let mut settings = 0;
    let arguments: String = argument_lists()
        .into_iter()
        .flat_map(|(_, list)| list)
        .collect();
    for (place, name, value) in variables() {
        let place = format!("{place}: {name}");
        if !name.starts_with("PERENNIAL_") {
            let used = arguments.contains(&format!("$({name})"));
            let of_postgres = name.starts_with("POSTGRES_") || name == "PGDATA";
            assert!(used || of_postgres, "{place} is used by nobody");
            continue;
        }
        if !name.contains("__") {
            assert!(is_of_a_flag(&name), "{place} is no flag's");
            continue;
        }
        let key = name["PERENNIAL_".len()..].replace("__", ".").to_lowercase();
        assert_setting(&place, &key, &value);
        settings += 1;
    }
    assert!(
        settings >= 6,
        "{settings}: variables are not found any more"
    );
}

/// Whether commands that talk to a node take a flag from this variable.
fn is_of_a_flag(name: &str) -> bool {
    let definition = cli::definition();
    let (health, _) = find_command(&definition, &["health"]);
    health
        .get_arguments()
        .any(|argument| argument.get_env().is_some_and(|variable| variable == name))
}

#[test]
fn every_setting_in_a_file_is_known_to_the_binary() {
    let files = names_ending(".toml");
    assert_eq!(files.len(), 2, "base and prod");
    for name in files {
        let table: toml::Table = read(&name).parse().unwrap();
        for (key, value) in leaves("", &table) {
            assert_setting(&name, &key, &value);
        }
    }
}

fn leaves(section: &str, table: &toml::Table) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, value) in table {
        let key = format!("{section}{name}");
        match value {
            toml::Value::Table(table) => found.extend(leaves(&format!("{key}."), table)),
            toml::Value::String(text) => found.push((key, text.clone())),
            other => found.push((key, other.to_string())),
        }
    }
    found
}

fn assert_setting(place: &str, key: &str, value: &str) {
    if to_come::SETTINGS.contains(&key) {
        return;
    }
    if key == "persistence.journal.url_file" {
        // Read when it is set, and there is none here: `pods.rs` looks at its path.
        assert!(Settings::keys().any(|known| known.name == key));
        return;
    }
    let source = Source::File(place.into());
    if let Err(error) = Settings::default().set(key, value, source) {
        panic!("{place}: {error}");
    }
}

#[test]
fn the_component_tls_is_the_only_one_that_speaks_of_tls() {
    let speaks = |document: &Document| document.yaml.to_string().contains("__TLS__");
    let speaking: Vec<String> = manifests()
        .iter()
        .filter(|document| speaks(document))
        .map(Document::shown)
        .collect();
    assert_eq!(
        speaking,
        ["kubernetes/components/tls/node.yaml: StatefulSet perennial"]
    );
    // Connections are protected, or it is said that they are not.
    assert!(read("kubernetes/overlays/prod/kustomization.yaml").contains("components/tls"));
    assert!(read("kubernetes/overlays/dev/kustomization.yaml").contains("--insecure"));
    assert!(!read("kubernetes/base/statefulset.yaml").contains("--insecure"));
}
