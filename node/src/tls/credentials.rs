//! Files as rustls wants them, for each side of a connection.

use std::sync::Arc;

use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::{DEFAULT_VERSIONS, RootCertStore};

use super::files::{Contents, Parsed, PemFile, TlsError, TlsFiles};

/// Whether clients have to show a certificate, where an authority for them is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientAuth {
    /// A client without one is refused.
    Required,
    /// A client without one is let in, and is somebody nobody vouches for.
    Optional,
}

/// What the ports for clients show; they differ in the protocol they speak.
#[derive(Debug, Clone)]
pub(crate) struct ClientPortTls {
    pub(crate) grpc: Arc<ServerConfig>,
    pub(crate) http: Arc<ServerConfig>,
}

/// What nodes show each other, whoever of the two connects.
#[derive(Debug, Clone)]
pub(crate) struct PeerTls {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

/// Something made of files, and when its certificate ends.
#[derive(Debug, Clone)]
pub(crate) struct Made<T> {
    pub(crate) value: T,
    /// Seconds since 1970.
    pub(crate) ends_at: i64,
}

/// For the ports for clients. Without an authority, clients show nothing.
pub(crate) fn for_clients(
    files: &TlsFiles,
    contents: &Contents,
    auth: ClientAuth,
) -> Result<Made<ClientPortTls>, TlsError> {
    let parsed = files.parse(contents)?;
    let ends_at = parsed.ends_at;
    let grpc = server(files, parsed, auth)?;
    let mut http = grpc.clone();
    http.alpn_protocols = vec![b"http/1.1".to_vec()];
    let value = ClientPortTls {
        grpc: Arc::new(grpc),
        http: Arc::new(http),
    };
    Ok(Made { value, ends_at })
}

/// For the port for other nodes and for connections to them: both sides show a
/// certificate of the same authority, made out for clients and for servers.
pub(crate) fn for_peers(files: &TlsFiles, contents: &Contents) -> Result<Made<PeerTls>, TlsError> {
    let parsed = files.parse(contents)?;
    let ends_at = parsed.ends_at;
    let client = client(files, files.parse(contents)?)?;
    let value = PeerTls {
        server: Arc::new(server(files, parsed, ClientAuth::Required)?),
        client: Arc::new(client),
    };
    Ok(Made { value, ends_at })
}

fn server(files: &TlsFiles, parsed: Parsed, auth: ClientAuth) -> Result<ServerConfig, TlsError> {
    let verifier = match (parsed.roots, &files.ca) {
        (Some(roots), Some(file)) => {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            let builder = match auth {
                ClientAuth::Required => builder,
                ClientAuth::Optional => builder.allow_unauthenticated(),
            };
            builder.build().map_err(|error| unusable(file, &error))?
        }
        _ => WebPkiClientVerifier::no_client_auth(),
    };
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(DEFAULT_VERSIONS)
        .map_err(|error| files.pair_error(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(parsed.chain, parsed.key);
    let mut config = config.map_err(|error| files.pair_error(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    if files.ca.is_some() {
        // Who resumes a session does not show its certificate again, so one that has
        // expired, or whose authority is trusted no more, would go on being good.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn client(files: &TlsFiles, parsed: Parsed) -> Result<ClientConfig, TlsError> {
    let (Some(roots), Some(file)) = (parsed.roots, &files.ca) else {
        return Err(TlsError::Incomplete {
            given: files.certificate.setting,
            missing: "node.peer_tls.ca",
        });
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
    let verifier = verifier.build().map_err(|error| unusable(file, &error))?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(DEFAULT_VERSIONS)
        .map_err(|error| files.pair_error(&error))?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(parsed.chain, parsed.key);
    let mut config = config.map_err(|error| files.pair_error(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// For the command line: trusts the authorities of a file, or those of the machine,
/// and shows a certificate if there is one.
pub(crate) fn for_command_line(
    ca: Option<&PemFile>,
    identity: Option<&TlsFiles>,
) -> Result<ClientConfig, TlsError> {
    let roots = match ca {
        Some(file) => file.roots()?,
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(DEFAULT_VERSIONS)
        .map_err(|error| TlsError::NoSystemAuthorities {
            problem: error.to_string(),
        })?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let parsed = files.parse(&files.read()?)?;
            let config = builder.with_client_auth_cert(parsed.chain, parsed.key);
            config.map_err(|error| files.pair_error(&error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let problem: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoSystemAuthorities {
            problem: problem.join(", "),
        });
    }
    Ok(roots)
}

fn unusable(file: &PemFile, error: &dyn std::error::Error) -> TlsError {
    TlsError::Content {
        setting: file.setting,
        path: file.path.clone(),
        problem: format!("cannot be used to check certificates: {error}"),
    }
}

/// Named here and not taken from the process, where a program that links this crate
/// may have installed another.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
