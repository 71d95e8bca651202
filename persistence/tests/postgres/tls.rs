//! TLS to the server: whom it is trusted from.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use perennial_persistence::storage::{Storage, StorageError, StorageOptions, StorageUrl, migrate};
use perennial_persistence::testing::postgres_server::{PostgresServer, PostgresSetup};

use crate::node::{Node, assert_stored};

const PASSWORD: &str = "geheim-4711";

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("openssl is not installed: install the package `openssl`");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}: {said}");
}

/// An authority, made in a folder; the path of its certificate.
fn authority(folder: &Path, name: &str) -> PathBuf {
    openssl(
        folder,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} \
             -keyout {name}.key -out {name}.crt"
        ),
    );
    folder.join(format!("{name}.crt"))
}

/// A key and a certificate of a server, made out to an address.
fn certificate(folder: &Path, authority: &str, address: &str) -> (PathBuf, PathBuf) {
    openssl(
        folder,
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=postgres -keyout server.key \
         -out server.csr",
    );
    let extension = format!("subjectAltName={address}\n");
    std::fs::write(folder.join("server.ext"), extension).unwrap();
    openssl(
        folder,
        &format!(
            "x509 -req -in server.csr -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -days 2 \
             -extfile server.ext -out server.crt"
        ),
    );
    (folder.join("server.key"), folder.join("server.crt"))
}

fn verified(server: &PostgresServer, authority: &Path) -> StorageUrl {
    let url = format!(
        "{}?sslmode=verify-full&sslrootcert={}",
        server.url_text(),
        authority.display()
    );
    StorageUrl::parse(&url).unwrap()
}

async fn open(url: &StorageUrl) -> Result<Storage, StorageError> {
    Storage::open(url, &StorageOptions::default()).await
}

/// All of an error that anybody could print.
fn everything(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(" {error} {error:?}"));
        source = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_if_its_certificate_is() {
    let folder = tempfile::tempdir().unwrap();
    let ours = authority(folder.path(), "ours");
    let foreign = authority(folder.path(), "foreign");
    let (key, certificate) = certificate(folder.path(), "ours", "IP:127.0.0.1");
    let server = PostgresServer::start_with(PostgresSetup {
        password: Some(PASSWORD),
        tls: Some((&key, &certificate)),
        ..PostgresSetup::default()
    });
    let url = verified(&server, &ours);
    migrate(&url).await.unwrap();
    let node = Node::start_with(&url, &StorageOptions::default()).await;
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);
    assert_eq!(node.texts("a").await, ["1"]);

    let error = open(&verified(&server, &foreign)).await.err().unwrap();
    assert!(matches!(error, StorageError::Untrusted { .. }), "{error:?}");
    let message = error.to_string();
    assert!(
        message.contains("certificate") && message.contains("sslrootcert"),
        "{message}"
    );
    assert!(!everything(&error).contains(PASSWORD), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_made_out_to_another_server_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ours = authority(folder.path(), "ours");
    let (key, certificate) = certificate(folder.path(), "ours", "DNS:elsewhere.example");
    let server = PostgresServer::start_with(PostgresSetup {
        password: None,
        tls: Some((&key, &certificate)),
        ..PostgresSetup::default()
    });
    let error = open(&verified(&server, &ours)).await.err().unwrap();
    assert!(matches!(error, StorageError::Untrusted { .. }), "{error:?}");
}
