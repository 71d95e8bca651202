//! What is said about files that cannot be used, and what a handshake makes of those
//! that can.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::super::credentials::{ClientAuth, PeerTls, for_clients, for_command_line, for_peers};
use super::*;

/// A folder with an authority and what it has signed.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Server,
    Client,
    Both,
    Expired,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.crt"), certificate.pem()).unwrap();
        Self {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn ca(&self) -> PemFile {
        named(self.file("ca.crt"))
    }

    /// Signs a certificate and gives its files, with this authority's as those trusted.
    pub(crate) fn sign(&self, name: &str, used: Use) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        if used != Use::Client {
            let server = ExtendedKeyUsagePurpose::ServerAuth;
            params.extended_key_usages.push(server);
        }
        if used != Use::Server {
            let client = ExtendedKeyUsagePurpose::ClientAuth;
            params.extended_key_usages.push(client);
        }
        if used == Use::Expired {
            params.not_after = date_time_ymd(2001, 1, 1);
            params.not_before = date_time_ymd(2000, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (certificate_file, key_file) = (
            self.file(&format!("{name}.crt")),
            self.file(&format!("{name}.key")),
        );
        std::fs::write(&certificate_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        TlsFiles {
            certificate: named(certificate_file),
            key: named(key_file),
            ca: Some(self.ca()),
        }
    }
}

fn named(path: PathBuf) -> PemFile {
    PemFile {
        setting: "node.tls.test",
        path,
    }
}

fn peer(files: &TlsFiles) -> Result<PeerTls, TlsError> {
    for_peers(files, &files.read()?).map(|made| made.value)
}

#[track_caller]
fn assert_said<T>(result: Result<T, TlsError>, parts: &[&str]) {
    let error = result.err().expect("an error").to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name_and_its_setting() {
    let authority = Authority::new();
    let good = authority.sign("good", Use::Both);
    peer(&good).unwrap();
    let with_certificate = |text: &str| {
        let path = authority.file("bad");
        std::fs::write(&path, text).unwrap();
        let certificate = named(path);
        peer(&TlsFiles {
            certificate,
            ..good.clone()
        })
    };
    assert_said(
        with_certificate(""),
        &["bad", "node.tls.test", "no certificate"],
    );
    let broken = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
    assert_said(with_certificate(broken), &["bad", "not valid PEM"]);
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_said(with_certificate(nonsense), &["bad", "X.509"]);
    let with_key = |text: &str| {
        let path = authority.file("bad.key");
        std::fs::write(&path, text).unwrap();
        let key = named(path);
        peer(&TlsFiles {
            key,
            ..good.clone()
        })
    };
    assert_said(with_key("hello"), &["bad.key", "no private key"]);
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert_said(with_key(encrypted), &["bad.key", "without a password"]);
    let missing = TlsFiles {
        ca: Some(named(Path::new("/no/such/ca.crt").to_owned())),
        ..good.clone()
    };
    assert_said(
        peer(&missing),
        &["/no/such/ca.crt", "node.tls.test", "check the path"],
    );
    let other = authority.sign("other", Use::Both);
    let mixed = TlsFiles {
        key: other.key,
        ..good
    };
    assert_said(peer(&mixed), &["good.crt", "other.key", "do not fit"]);
}

#[test]
fn a_key_others_can_read_is_noticed() {
    let authority = Authority::new();
    let files = authority.sign("a", Use::Both);
    let set = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&files.key.path, permissions).unwrap();
        is_open(&files.key.path)
    };
    assert!(!set(0o600) && !set(0o440) && set(0o444));
}

/// Whether both sides are content; a server learns of a client's certificate last, so
/// a byte is carried.
async fn shake(server: Arc<rustls::ServerConfig>, client: Arc<ClientConfig>) -> Result<(), String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near, far) = tokio::io::duplex(16 << 10);
    let accept = async {
        let accepted = TlsAcceptor::from(server).accept(near).await;
        let mut stream = accepted.map_err(|error| error.to_string())?;
        stream
            .write_all(b"!")
            .await
            .map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())
    };
    let connect = async {
        let name = ServerName::try_from("localhost").unwrap();
        let connected = TlsConnector::from(client).connect(name, far).await;
        let mut stream = connected.map_err(|error| error.to_string())?;
        let byte = stream.read_u8().await;
        byte.map(drop).map_err(|error| error.to_string())
    };
    let (accepted, connected) = tokio::join!(accept, connect);
    accepted.and(connected)
}

#[tokio::test]
async fn nodes_take_only_certificates_of_their_authority_for_both_uses() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let node = peer(&ours.sign("node", Use::Both)).unwrap();
    shake(node.server.clone(), node.client.clone())
        .await
        .unwrap();
    for (name, stranger) in [
        ("another authority", peer(&theirs.sign("node", Use::Both))),
        ("a client's", peer(&ours.sign("client", Use::Client))),
        ("a server's", peer(&ours.sign("server", Use::Server))),
        ("expired", peer(&ours.sign("expired", Use::Expired))),
    ] {
        let stranger = stranger.unwrap();
        let accepted = shake(node.server.clone(), stranger.client).await;
        let connected = shake(stranger.server, node.client.clone()).await;
        match name {
            // Each lacks one of the two uses.
            "a client's" => assert!(accepted.is_ok() && connected.is_err(), "{name}"),
            "a server's" => assert!(accepted.is_err() && connected.is_ok(), "{name}"),
            _ => assert!(accepted.is_err() && connected.is_err(), "{name}"),
        }
    }
    let alone = TlsFiles {
        ca: None,
        ..ours.sign("alone", Use::Both)
    };
    assert_said(peer(&alone), &["node.peer_tls.ca"]);
}

#[tokio::test]
async fn clients_show_a_certificate_if_they_have_to() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let files = ours.sign("server", Use::Server);
    let server = |files: &TlsFiles, auth| {
        let made = for_clients(files, &files.read().unwrap(), auth).unwrap();
        made.value.grpc
    };
    let client = |identity: Option<&TlsFiles>| {
        Arc::new(for_command_line(Some(&ours.ca()), identity).unwrap())
    };
    let known = client(Some(&ours.sign("known", Use::Client)));
    let stranger = client(Some(&theirs.sign("stranger", Use::Client)));
    let nobody = client(None);
    let no_ca = TlsFiles {
        ca: None,
        ..files.clone()
    };
    for (what, server, ok) in [
        (
            "required",
            server(&files, ClientAuth::Required),
            [true, false, false],
        ),
        (
            "optional",
            server(&files, ClientAuth::Optional),
            [true, false, true],
        ),
        // Not asked, nobody shows one.
        (
            "no ca",
            server(&no_ca, ClientAuth::Required),
            [true, true, true],
        ),
    ] {
        for (who, expected) in [&known, &stranger, &nobody].into_iter().zip(ok) {
            let shaken = shake(server.clone(), Arc::clone(who)).await;
            assert_eq!(shaken.is_ok(), expected, "{what}: {shaken:?}");
        }
    }
    // Nor does a client take a server of another authority.
    let other = server(&theirs.sign("server", Use::Server), ClientAuth::Optional);
    assert!(shake(other, nobody).await.is_err());
}

#[test]
fn the_end_of_a_certificate_is_known() {
    let authority = Authority::new();
    let files = authority.sign("expired", Use::Expired);
    let made = for_peers(&files, &files.read().unwrap()).unwrap();
    assert_eq!(made.ends_at, 978_307_200, "2001-01-01");
}
