//! How pods run: without rights, with the files they are told of, and with the time
//! they need to end.

use std::time::Duration;

use perennial::Settings;
use perennial::config::Source;
use serde_json::{Value, json};

use crate::files::{Document, base, documents, list, manifests, read};

/// Every pod template of base and overlays that names an image; patches do not.
fn pods() -> Vec<(String, Value)> {
    let whole = |document: &Document| {
        let containers = list(&document.yaml, "/spec/template/spec/containers");
        containers
            .iter()
            .any(|container| container["image"].is_string())
    };
    let documents = manifests().into_iter().filter(whole);
    documents
        .map(|document| {
            (
                document.shown(),
                document.yaml["spec"]["template"]["spec"].clone(),
            )
        })
        .collect()
}

#[test]
fn every_pod_runs_without_rights() {
    let pods = pods();
    assert_eq!(pods.len(), 4, "nodes, migration, reform, Postgres of dev");
    for (place, pod) in pods {
        assert_eq!(pod["automountServiceAccountToken"], false, "{place}");
        // Or Kubernetes adds variables that look like settings.
        assert_eq!(pod["enableServiceLinks"], false, "{place}");
        let security = &pod["securityContext"];
        assert_eq!(security["runAsNonRoot"], true, "{place}");
        assert_eq!(
            security["seccompProfile"]["type"], "RuntimeDefault",
            "{place}"
        );
        for id in ["runAsUser", "runAsGroup", "fsGroup"] {
            assert!(
                security[id].as_u64().is_some_and(|id| id > 0),
                "{place}: {id}"
            );
        }
        for container in list(&pod, "/containers") {
            let expected = json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            });
            assert_eq!(container["securityContext"], expected, "{place}");
            let resources = &container["resources"];
            assert!(resources["requests"]["memory"].is_string(), "{place}");
            assert!(resources["limits"]["memory"].is_string(), "{place}");
            // A throttled node looks like a dead one.
            assert_eq!(resources["limits"]["cpu"], Value::Null, "{place}");
        }
    }
}

#[test]
fn the_image_and_the_pods_have_the_same_user() {
    let image = read("Containerfile");
    for name in ["statefulset.yaml", "migrate.yaml"] {
        let pod = base(name).yaml["spec"]["template"]["spec"]["securityContext"].clone();
        let user = format!("USER {}:{}", pod["runAsUser"], pod["runAsGroup"]);
        assert!(image.contains(&user), "{name}: {user}");
    }
}

/// The StatefulSet as a cluster needs it: nodes that start together, stay who they are
/// and are named by the Service that also names those that are not ready.
#[test]
fn nodes_find_each_other_by_names_that_stay() {
    let nodes = base("statefulset.yaml").yaml;
    let peers = base("service-peers.yaml");
    let spec = &nodes["spec"];
    assert_eq!(spec["podManagementPolicy"], "Parallel");
    assert_eq!(spec["serviceName"], peers.text("/metadata/name"));
    assert_eq!(
        spec["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    assert_eq!(peers.text("/spec/clusterIP"), "None");
    assert_eq!(peers.yaml["spec"]["publishNotReadyAddresses"], true);
    let clients = base("service.yaml").yaml;
    assert_eq!(clients["spec"]["publishNotReadyAddresses"], Value::Null);

    let host = format!(
        "$(POD_NAME).{}.$(POD_NAMESPACE).svc",
        peers.text("/metadata/name")
    );
    let arguments = list(&nodes, "/spec/template/spec/containers/0/args");
    for advertised in [
        format!("--advertise={host}:7400"),
        format!("--advertise-peer={host}:7402"),
    ] {
        assert!(
            arguments.contains(&Value::from(advertised.clone())),
            "{advertised}"
        );
    }
}

/// Every path that a node is told lies in something that is mounted there.
#[test]
fn files_are_where_they_are_looked_for() {
    for (name, key) in [
        ("base/perennial.toml", "base"),
        ("overlays/prod/perennial.toml", "prod"),
    ] {
        let settings: toml::Table = read(&format!("kubernetes/{name}")).parse().unwrap();
        let url_file = settings["persistence"]["journal"]["url_file"]
            .as_str()
            .unwrap();
        for pod in ["statefulset.yaml", "migrate.yaml"] {
            let pod = base(pod).yaml["spec"]["template"]["spec"].clone();
            let mount = list(&pod, "/containers/0/volumeMounts")
                .iter()
                .find(|mount| mount["name"] == "journal");
            let folder = mount.unwrap()["mountPath"].as_str().unwrap();
            let volume = list(&pod, "/volumes")
                .iter()
                .find(|volume| volume["name"] == "journal")
                .unwrap();
            let file = volume["secret"]["items"][0]["path"].as_str().unwrap();
            assert_eq!(url_file, format!("{folder}/{file}"), "{key}");
        }
    }
    // With CloudNativePG the file has another source and the same name.
    for patch in ["node", "migrate"] {
        let patch =
            documents(&format!("kubernetes/components/postgres-cnpg/{patch}.yaml")).remove(0);
        assert_eq!(patch.text("/spec/template/spec/volumes/0/name"), "journal");
        assert_eq!(
            patch.text("/spec/template/spec/volumes/0/secret/items/0/path"),
            "url"
        );
        let cluster = documents("kubernetes/components/postgres-cnpg/cluster.yaml").remove(0);
        let secret = format!("{}-app", cluster.text("/metadata/name"));
        assert_eq!(
            patch.text("/spec/template/spec/volumes/0/secret/secretName"),
            secret
        );
    }

    let tls = documents("kubernetes/components/tls/node.yaml")
        .remove(0)
        .yaml;
    let container = &tls["spec"]["template"]["spec"]["containers"][0];
    let folders: Vec<&str> = list(container, "/volumeMounts")
        .iter()
        .filter_map(|mount| mount["mountPath"].as_str())
        .collect();
    for variable in list(container, "/env") {
        let (folder, file) = variable["value"]
            .as_str()
            .unwrap()
            .rsplit_once('/')
            .unwrap();
        assert!(folders.contains(&folder), "{variable}");
        assert!(
            ["tls.crt", "tls.key", "ca.crt"].contains(&file),
            "{variable}"
        );
    }

    let auth = documents("kubernetes/components/auth/node.yaml")
        .remove(0)
        .yaml;
    let pod = &auth["spec"]["template"]["spec"];
    let folder = pod["containers"][0]["volumeMounts"][0]["mountPath"].as_str();
    let keys = list(&pod["containers"][0], "/env")
        .iter()
        .find(|variable| variable["name"] == "PERENNIAL_NODE__AUTH__JWT__JWKS_FILE")
        .unwrap();
    assert_eq!(
        keys["value"],
        format!("{}/jwks.json", folder.unwrap()).as_str()
    );
    // Made by hand, under the name and with the file that are said to make.
    let said = read("kubernetes/components/auth/kustomization.yaml");
    let made = format!(
        "create configmap {} --from-file=jwks.json",
        pod["volumes"][0]["configMap"]["name"].as_str().unwrap()
    );
    assert!(said.contains(&made), "{made}");
    assert!(read("RUNBOOK.md").contains(&made), "{made}");

    let nodes = base("statefulset.yaml").yaml;
    let container = &nodes["spec"]["template"]["spec"]["containers"][0];
    let data = list(container, "/volumeMounts")
        .iter()
        .find(|mount| mount["name"] == "data")
        .unwrap();
    let argument = format!("--data-dir={}", data["mountPath"].as_str().unwrap());
    assert!(list(container, "/args").contains(&Value::from(argument)));
    assert_eq!(
        list(&nodes, "/spec/volumeClaimTemplates")[0]["metadata"]["name"],
        "data"
    );
}

#[test]
fn nodes_have_more_time_to_end_than_they_take() {
    let drain = |name: &str| {
        let file: toml::Table = read(name).parse().unwrap();
        let text = file["node"]["drain_timeout"].as_str().unwrap().to_owned();
        let mut settings = Settings::default();
        settings
            .set("node.drain_timeout", &text, Source::File(name.into()))
            .unwrap();
        settings.drain_timeout
    };
    let grace = |yaml: &Value| {
        let spec = &yaml["spec"]["template"]["spec"];
        Duration::from_secs(spec["terminationGracePeriodSeconds"].as_u64().unwrap())
    };
    let to_spare = Duration::from_secs(10);
    let base_grace = grace(&base("statefulset.yaml").yaml);
    assert!(base_grace >= drain("kubernetes/base/perennial.toml") + to_spare);
    let prod = documents("kubernetes/overlays/prod/node.yaml")
        .remove(0)
        .yaml;
    assert!(grace(&prod) >= drain("kubernetes/overlays/prod/perennial.toml") + to_spare);
    let compose = documents("compose.yaml").remove(0);
    let seconds = compose
        .text("/x-node/stop_grace_period")
        .strip_suffix('s')
        .unwrap();
    let grace = Duration::from_secs(seconds.parse().unwrap());
    assert!(grace >= Settings::default().drain_timeout + to_spare);
}
