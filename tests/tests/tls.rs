//! Encrypted connections between real processes: who is let in, who is not and is
//! told why, and certificates that change while commands flow.

#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::time::Duration;

use perennial_tests::authority::{Authority, Lifetime, Mounted};
use perennial_tests::binaries::repository;
use perennial_tests::cli::{self, Outcome};
use perennial_tests::cluster_load::ClusterLoad;
use perennial_tests::database::TestDatabase;
use perennial_tests::eventually::eventually;
use perennial_tests::local_cluster::LocalCluster;
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);
const RELOADS: &str = "perennial_certificate_reloads_total";

fn with_tls(files: &Mounted) -> NodeOptions {
    NodeOptions::default()
        .setting("node.tls.certificate", &files.text("tls.crt"))
        .setting("node.tls.key", &files.text("tls.key"))
}

fn address(node: &NodeProcess) -> String {
    node.address().trim_start_matches("http://").to_owned()
}

/// Runs a client command with these flags.
async fn client(node: &NodeProcess, command: &[&str], flags: &[&str]) -> Outcome {
    let address = address(node);
    let all = [command, &["--address", &address, "--timeout", "10s"], flags].concat();
    cli::run(all).await.unwrap()
}

/// What openssl prints when it connects, with these further arguments.
async fn openssl(address: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", address, "-alpn", "h2"])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(SOON, command.output()).await;
    let output = output.unwrap().unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[track_caller]
fn assert_fails(outcome: &Outcome, parts: &[&str]) {
    assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "{part:?} in {outcome:?}");
    }
}

#[tokio::test]
async fn clients_with_a_certificate_are_let_in_and_others_are_told_why_not() {
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let server = ours.mounted("node").unwrap();
    let known = ours.mounted("billing").unwrap();
    let stranger = theirs.mounted("billing").unwrap();
    let options = with_tls(&server).setting("node.tls.client_ca", &server.text("ca.crt"));
    let node = NodeProcess::start(options).await.unwrap();
    let send = ["send", "counter", "tea", "{\"add\":5}"];

    let (ca, certificate, key) = (
        known.text("ca.crt"),
        known.text("tls.crt"),
        known.text("tls.key"),
    );
    let flags = [
        "--tls-ca",
        &ca,
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
    ];
    let sent = client(&node, &send, &flags).await;
    assert_eq!(
        (sent.code, sent.stdout.trim()),
        (Some(0), "{\"value\":5}"),
        "{sent:?}"
    );
    let health = client(&node, &["health"], &flags).await;
    assert_eq!(health.stdout.trim(), "serving", "{health:?}");
    for command in [
        &["events", "counter", "tea"][..],
        &["list", "counter"],
        &["cluster", "status"],
    ] {
        let done = client(&node, command, &flags).await;
        assert_eq!(done.code, Some(0), "{command:?}: {done:?}");
    }

    let nobody = client(&node, &send, &flags[..2]).await;
    assert_fails(
        &nobody,
        &["UNAVAILABLE", "CertificateRequired", "applied: no"],
    );
    let (other_certificate, other_key) = (stranger.text("tls.crt"), stranger.text("tls.key"));
    let other = [
        "--tls-ca",
        &ca,
        "--tls-cert",
        &other_certificate,
        "--tls-key",
        &other_key,
    ];
    assert_fails(
        &client(&node, &send, &other).await,
        &["UNAVAILABLE", "UnknownCA", "applied: no"],
    );
    let other_ca = stranger.text("ca.crt");
    let distrusting = [
        "--tls-ca",
        &other_ca,
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
    ];
    assert_fails(
        &client(&node, &send, &distrusting).await,
        &["UnknownIssuer"],
    );
    let plain = client(&node, &send, &[]).await;
    assert_fails(&plain, &["this port requires TLS"]);

    let (expired, expired_key) = ours.sign("billing", Lifetime::Expired).unwrap();
    let mut old = ours.mounted("billing").unwrap();
    old.replace(&expired, &expired_key, ours.pem()).unwrap();
    let (old_certificate, old_key) = (old.text("tls.crt"), old.text("tls.key"));
    let old = [
        "--tls-ca",
        &ca,
        "--tls-cert",
        &old_certificate,
        "--tls-key",
        &old_key,
    ];
    assert_fails(
        &client(&node, &send, &old).await,
        &["UNAVAILABLE", "CertificateExpired", "applied: no"],
    );

    // Nobody changed anything meanwhile.
    let value = client(&node, &["send", "counter", "tea", "\"get\""], &flags).await;
    assert_eq!(value.stdout.trim(), "{\"value\":5}");
    assert!(
        node.metric_sum("perennial_connections_refused_total")
            .unwrap()
            >= 4.0
    );
    let ends = node.metric_sum("perennial_certificate_expiry_timestamp_seconds");
    assert!(ends.unwrap() > 4e9, "of rcgen: far away");
}

#[tokio::test]
async fn independent_clients_agree() {
    let authority = Authority::new().unwrap();
    let server = authority.mounted("node").unwrap();
    let options = with_tls(&server).setting("node.tls.client_ca", &server.text("ca.crt"));
    let node = NodeProcess::start(options).await.unwrap();
    let (ca, certificate, key) = (
        server.text("ca.crt"),
        server.text("tls.crt"),
        server.text("tls.key"),
    );
    let trusting = [
        "-CAfile",
        &ca,
        "-verify_return_error",
        "-verify_hostname",
        "localhost",
    ];
    let mutual = [&trusting[..], &["-cert", &certificate, "-key", &key]].concat();
    for version in ["-tls1_3", "-tls1_2"] {
        let said = openssl(&address(&node), &[&mutual[..], &[version]].concat()).await;
        assert!(said.contains("ALPN protocol: h2"), "{said}");
        assert!(said.contains("Verify return code: 0"), "{said}");
    }
    for version in ["-tls1_1", "-tls1"] {
        let said = openssl(&address(&node), &[&mutual[..], &[version]].concat()).await;
        assert!(said.contains("Cipher is (NONE)"), "{said}");
        assert!(
            said.contains("alert") || said.contains("no protocols"),
            "{said}"
        );
    }
    // The HTTP port speaks both: `start` has asked for /readyz without.
    let http = node.http_address().to_string();
    let said = openssl(
        &http,
        &[
            "-CAfile",
            &ca,
            "-cert",
            &certificate,
            "-key",
            &key,
            "-alpn",
            "http/1.1",
        ],
    )
    .await;
    assert!(said.contains("Verify return code: 0"), "{said}");

    let script = r#"
import sys, grpc
from perennial.v1 import entity_pb2, entity_pb2_grpc
address, ca, certificate, key = sys.argv[1:]
read = lambda path: open(path, "rb").read()
credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(certificate))
with grpc.secure_channel(address, credentials) as channel:
    stub = entity_pb2_grpc.EntityServiceStub(channel)
    request = entity_pb2.SendRequest(entity_type="counter", entity_id="py", payload=b'{"add":7}')
    print(stub.Send(request, timeout=30).payload.decode())
credentials = grpc.ssl_channel_credentials(read(ca))
with grpc.secure_channel(address, credentials) as channel:
    stub = entity_pb2_grpc.EntityServiceStub(channel)
    try:
        stub.Send(request, timeout=30)
        print("let in")
    except grpc.RpcError as error:
        print(error.code().name)
"#;
    let printed = python(script, &[&address(&node), &ca, &certificate, &key]).await;
    assert_eq!(printed.trim(), "{\"value\":7}\nUNAVAILABLE");
}

/// Runs a script with the generated client.
async fn python(script: &str, arguments: &[&str]) -> String {
    let made = Command::new(repository().join("tests/python/environment"));
    let folder = output(made).await;
    let folder = std::path::Path::new(folder.trim());
    let mut run = Command::new(folder.join("venv/bin/python"));
    run.args(["-B", "-c", script])
        .args(arguments)
        .env("PYTHONPATH", folder.join("generated"));
    output(run).await
}

async fn output(mut command: Command) -> String {
    let output = command.kill_on_drop(true).output().await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn certificates_change_while_a_connection_stays() {
    let authority = Authority::new().unwrap();
    let mut server = authority.mounted("before").unwrap();
    let node = NodeProcess::start(with_tls(&server)).await.unwrap();
    // One connection, on which a command goes out for each line of input.
    let script = r#"
import sys, grpc
from perennial.v1 import entity_pb2, entity_pb2_grpc
address, ca = sys.argv[1:]
credentials = grpc.ssl_channel_credentials(open(ca, "rb").read())
with grpc.secure_channel(address, credentials) as channel:
    stub = entity_pb2_grpc.EntityServiceStub(channel)
    request = entity_pb2.SendRequest(entity_type="counter", entity_id="a", payload=b'{"add":1}')
    for line in sys.stdin:
        print(stub.Send(request, timeout=30).payload.decode(), flush=True)
"#;
    let made = Command::new(repository().join("tests/python/environment"));
    let folder = output(made).await;
    let folder = std::path::Path::new(folder.trim());
    let trusted = authority.mounted("trusted").unwrap();
    let mut running = Command::new(folder.join("venv/bin/python"))
        .args(["-B", "-c", script, &address(&node), &trusted.text("ca.crt")])
        .env("PYTHONPATH", folder.join("generated"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = running.stdin.take().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let mut count = 0;
    let mut send = async || {
        input.write_all(b"\n").await.unwrap();
        count += 1;
        let line = lines.next_line().await.unwrap().unwrap();
        assert_eq!(line, format!("{{\"value\":{count}}}"));
    };
    send().await;
    let seen = async || {
        let said = openssl(&address(&node), &["-CAfile", &trusted.text("ca.crt")]).await;
        said.lines()
            .find(|line| line.contains("subject="))
            .unwrap()
            .to_owned()
    };
    assert!(seen().await.contains("before"));
    let reloaded = async |result: &str, times: f64| {
        let name = format!("{RELOADS}{{use=\"client\",result=\"{result}\"}}");
        let done = eventually("the certificate to be read again", SOON, async || {
            let (_, metrics) = perennial_tests::http::get(node.http_address(), "/metrics").ok()?;
            let line = metrics.lines().find_map(|line| line.strip_prefix(&name))?;
            (line.trim().parse::<f64>().ok()? >= times).then_some(())
        });
        done.await.unwrap();
    };
    // A key that does not fit changes nothing and is said.
    let (certificate, key) = authority.sign("after", Lifetime::Good).unwrap();
    let (_, other_key) = authority.sign("other", Lifetime::Good).unwrap();
    server
        .replace(&certificate, &other_key, authority.pem())
        .unwrap();
    reloaded("failed", 1.0).await;
    assert!(
        node.output().contains("do not fit each other"),
        "{}",
        node.output()
    );
    assert!(seen().await.contains("before"));
    send().await;
    server.replace(&certificate, &key, authority.pem()).unwrap();
    reloaded("ok", 1.0).await;
    assert!(seen().await.contains("after"));
    send().await;
    drop(input);
    assert!(running.wait().await.unwrap().success());
    let connections = node.metric_sum("perennial_connections").unwrap();
    assert!(connections >= 0.0);
}

#[tokio::test]
async fn nodes_show_each_other_certificates_that_change_under_load() {
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let mut files = ours.mounted("before").unwrap();
    let database = TestDatabase::new().await;
    let mut cluster = LocalCluster::of_processes(3)
        .postgres(&database)
        .await
        .unwrap();
    for (setting, file) in [
        ("node.peer_tls.certificate", "tls.crt"),
        ("node.peer_tls.key", "tls.key"),
        ("node.peer_tls.ca", "ca.crt"),
    ] {
        cluster = cluster.setting(setting, &files.text(file));
    }
    let mut cluster = cluster.start().await.unwrap();
    let load = ClusterLoad::start(&cluster.addresses(), "tls", 4, 16);
    load.progress(100).await.unwrap();

    let reloads = async |cluster: &LocalCluster, times: f64| {
        for node in 0..3 {
            let process = cluster.process(node).unwrap();
            let done = eventually("new certificates", SOON, async || {
                let count = process.metric_sum(RELOADS).ok()?;
                (count >= times).then_some(())
            });
            done.await.unwrap();
        }
    };
    // To another authority, in three steps, as the runbook has it.
    let next = Authority::new().unwrap();
    let both = format!("{}{}", ours.pem(), next.pem());
    let (old_certificate, old_key) = ours.sign("before", Lifetime::Good).unwrap();
    let (certificate, key) = next.sign("after", Lifetime::Good).unwrap();
    for (step, (certificate, key, ca)) in [
        (&old_certificate, &old_key, both.as_str()),
        (&certificate, &key, both.as_str()),
        (&certificate, &key, next.pem()),
    ]
    .into_iter()
    .enumerate()
    {
        files.replace(certificate, key, ca).unwrap();
        reloads(&cluster, (step + 1) as f64).await;
        load.progress(100).await.unwrap();
    }
    // A node that starts now connects with nothing but the new ones.
    cluster.terminate(2).await.unwrap();
    cluster.restart(2).await.unwrap();
    cluster.settled().await.unwrap();
    load.progress(100).await.unwrap();
    let book = load.stop_and_check(&cluster.address(0)).await.unwrap();
    let failures: Vec<_> = book
        .failures
        .iter()
        // The node that was stopped closes its connections.
        .filter(|failure| !failure.reason.is_empty())
        .collect();
    assert!(failures.is_empty(), "{failures:?}");

    // Whoever is not of the authority learns nothing of the port.
    let peer = cluster.process(0).unwrap().peer_address().to_string();
    let old = ours.mounted("old").unwrap();
    let stranger = theirs.mounted("stranger").unwrap();
    for files in [&old, &stranger] {
        let (certificate, key) = (files.text("tls.crt"), files.text("tls.key"));
        // Over TLS 1.2 the refusal is part of the handshake.
        let said = openssl(&peer, &["-tls1_2", "-cert", &certificate, "-key", &key]).await;
        assert!(said.contains("alert unknown ca"), "{said}");
    }
    let (certificate, key) = (files.text("tls.crt"), files.text("tls.key"));
    let said = openssl(&peer, &["-tls1_2", "-cert", &certificate, "-key", &key]).await;
    assert!(!said.contains("alert"), "{said}");
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_the_start() {
    let authority = Authority::new().unwrap();
    let files = authority.mounted("node").unwrap();
    let refused = async |settings: &[(&str, &str)], parts: &[&str]| {
        let mut options = NodeOptions::default();
        for (key, value) in settings {
            options = options.setting(key, value);
        }
        let error = NodeProcess::start(options).await.err().unwrap();
        let text = format!("{error:#}");
        for part in parts {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    };
    let (certificate, key) = (files.text("tls.crt"), files.text("tls.key"));
    refused(
        &[("node.tls.certificate", &certificate)],
        &["node.tls.certificate", "node.tls.key", "set both"],
    )
    .await;
    refused(
        &[
            ("node.peer_tls.certificate", &certificate),
            ("node.peer_tls.key", &key),
        ],
        &["node.peer_tls.ca"],
    )
    .await;
    refused(
        &[
            ("node.tls.certificate", "/no/such.crt"),
            ("node.tls.key", &key),
        ],
        &["node.tls.certificate", "/no/such.crt"],
    )
    .await;
}

/// A session that is taken up again would be let in without its certificate: also
/// when that has expired since.
#[tokio::test]
async fn who_was_let_in_shows_its_certificate_each_time() {
    let authority = Authority::new().unwrap();
    let server = authority.mounted("node").unwrap();
    let [ca, certificate, key] = ["ca.crt", "tls.crt", "tls.key"].map(|file| server.text(file));
    let options = with_tls(&server).setting("node.tls.client_ca", &ca);
    let node = NodeProcess::start(options).await.unwrap();
    let shown = ["-CAfile", &ca, "-cert", &certificate, "-key", &key];
    // It reads what comes after the handshake until the node hangs up on it.
    let waiting = [&shown[..], &["-tls1_3", "-ign_eof"]].concat();
    let said = openssl(&address(&node), &waiting).await;
    assert!(said.contains("Verify return code: 0"), "{said}");
    assert!(!said.contains("New Session Ticket"), "{said}");
    let again = [&shown[..], &["-tls1_2", "-reconnect"]].concat();
    let said = openssl(&address(&node), &again).await;
    assert_eq!(said.matches("\nNew, TLSv1.2").count(), 6, "{said}");
    assert!(!said.contains("\nReused"), "{said}");
}
