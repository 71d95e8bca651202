//! How the command line reaches a node: where, encrypted or not, and as whom.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use clap::Args;
use rustls::ClientConfig;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;

use super::connection::{Bearer, Connection};
use super::failure::{Failure, chain};
use crate::proto::v1::cluster_service_client::ClusterServiceClient;
use crate::proto::v1::entity_service_client::EntityServiceClient;
use crate::proto::v1::event_service_client::EventServiceClient;
use crate::tls::connector::Connector;
use crate::tls::credentials::for_command_line;
use crate::tls::files::{PemFile, TlsFiles};
use crate::tls::refusal::{Listening, Refusal};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Larger than any answer of a node: `node.max_payload` is the limit there.
const MESSAGE_LEN_MAX: usize = 1 << 30;
/// Says who calls, to nodes that ask. Not a flag: those are seen by everybody on the
/// machine.
pub(super) const TOKEN_VARIABLE: &str = "PERENNIAL_TOKEN";

/// Flags of every command that talks to a node.
#[derive(Debug, Clone, Args)]
pub(super) struct ClientArgs {
    /// Where the node is; with https:// or one of the --tls flags, over TLS.
    #[arg(
        long,
        env = "PERENNIAL_ADDRESS",
        default_value = "127.0.0.1:7400",
        value_name = "HOST:PORT"
    )]
    pub(super) address: String,
    /// How long to wait for an answer.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(super) timeout: Duration,
    /// The authority that has signed the node's certificate, in PEM; without it, those
    /// this machine trusts.
    #[arg(long, env = "PERENNIAL_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// A certificate to show to the node, in PEM.
    #[arg(
        long,
        env = "PERENNIAL_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate.
    #[arg(
        long,
        env = "PERENNIAL_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
}

/// How a node is connected to, again and again.
#[derive(Debug, Clone)]
pub(super) struct Route {
    endpoint: Endpoint,
    tls: Option<Arc<ClientConfig>>,
    bearer: Bearer,
}

impl Route {
    pub(super) async fn connect(&self) -> Result<Connection, tonic::transport::Error> {
        let refusal = Refusal::default();
        let channel = match self.tls.clone() {
            None => self.endpoint.connect().await?,
            Some(tls) => {
                let config = move || Arc::clone(&tls);
                let connector = Listening {
                    connector: Connector::new(config, None, CONNECT_TIMEOUT),
                    refusal: refusal.clone(),
                };
                self.endpoint.connect_with_connector(connector).await?
            }
        };
        Ok(Connection::new(channel, self.bearer.clone(), refusal))
    }
}

impl ClientArgs {
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        let connected = self.route()?.connect().await;
        connected.map_err(|error| Failure::unreachable(&self.address, error))
    }

    pub(super) fn route(&self) -> Result<Route, Failure> {
        let tls = self.tls()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let plain = self.address.trim_start_matches("http://");
        let plain = plain.trim_start_matches("https://");
        let endpoint = Endpoint::from_shared(format!("{scheme}://{plain}")).map_err(|error| {
            Failure::usage(format!(
                "the address {:?} cannot be used: {error}; expected HOST:PORT",
                self.address
            ))
        })?;
        let token = std::env::var(TOKEN_VARIABLE).ok();
        let bearer = bearer(token.as_deref(), tls.is_some(), endpoint.uri())?;
        // Our connector encrypts; the library would want to do it itself for https.
        let origin = endpoint.uri().clone();
        let endpoint = Endpoint::from_shared(format!("http://{plain}"))
            .map_err(|error| Failure::usage(error.to_string()))?
            .origin(origin)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            // Finds out that a node is gone while nothing is being said.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10));
        Ok(Route {
            endpoint,
            tls,
            bearer,
        })
    }

    /// What is trusted and shown, if TLS is asked for by scheme or flag.
    fn tls(&self) -> Result<Option<Arc<ClientConfig>>, Failure> {
        let file = |setting, path: &PathBuf| PemFile {
            setting,
            path: path.clone(),
        };
        let ca = self.tls_ca.as_ref().map(|path| file("--tls-ca", path));
        let identity = self.tls_cert.as_ref().zip(self.tls_key.as_ref());
        let identity = identity.map(|(certificate, key)| TlsFiles {
            certificate: file("--tls-cert", certificate),
            key: file("--tls-key", key),
            ca: None,
        });
        if ca.is_none() && identity.is_none() && !self.address.starts_with("https://") {
            return Ok(None);
        }
        if self.address.starts_with("http://") {
            return Err(Failure::usage(format!(
                "the address {:?} asks for a connection without TLS, and --tls-ca or --tls-cert for one with: leave \
                 out one of them",
                self.address
            )));
        }
        let config = for_command_line(ca.as_ref(), identity.as_ref());
        let config = config.map_err(|error| Failure::usage(chain(&error)))?;
        Ok(Some(Arc::new(config)))
    }

    pub(super) async fn entities(&self) -> Result<EntityServiceClient<Connection>, Failure> {
        Ok(entities(self.connect().await?))
    }

    pub(super) async fn events(&self) -> Result<EventServiceClient<Connection>, Failure> {
        Ok(EventServiceClient::new(self.connect().await?)
            .max_decoding_message_size(MESSAGE_LEN_MAX))
    }

    pub(super) async fn cluster(&self) -> Result<ClusterServiceClient<Connection>, Failure> {
        Ok(ClusterServiceClient::new(self.connect().await?)
            .max_decoding_message_size(MESSAGE_LEN_MAX))
    }

    /// A call with the time-out.
    pub(super) fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

pub(super) fn entities(connection: Connection) -> EntityServiceClient<Connection> {
    EntityServiceClient::new(connection).max_decoding_message_size(MESSAGE_LEN_MAX)
}

/// Whoever reads a token can use it, so it goes out encrypted or not out of this
/// machine.
fn bearer(token: Option<&str>, encrypted: bool, uri: &Uri) -> Result<Bearer, Failure> {
    let Some(token) = token.map(str::trim).filter(|token| !token.is_empty()) else {
        return Ok(Bearer(None));
    };
    let host = uri.host().unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let here = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    if !encrypted && !here {
        return Err(Failure::usage(format!(
            "{TOKEN_VARIABLE} is not sent to {host} without encryption, where others could read it: use https:// or \
             --tls-ca, or unset it"
        )));
    }
    let value = MetadataValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| {
        Failure::usage(format!(
            "{TOKEN_VARIABLE} holds characters that no token has: give the token alone"
        ))
    })?;
    value.set_sensitive(true);
    Ok(Bearer(Some(value)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        client: ClientArgs,
    }

    fn route(arguments: &[&str]) -> Result<Route, Failure> {
        let line = [&["test"], arguments].concat();
        Line::try_parse_from(line).unwrap().client.route()
    }

    #[test]
    fn a_token_is_sent_where_nobody_else_reads_it() {
        let sent = |encrypted, uri: &str| {
            bearer(Some("secret"), encrypted, &uri.parse().unwrap()).map(|bearer| bearer.0)
        };
        for (encrypted, uri, goes) in [
            (false, "http://127.0.0.1:1", true),
            (false, "http://[::1]:1", true),
            (false, "http://localhost:1", true),
            (false, "http://10.0.0.1:1", false),
            // A name anybody can register.
            (false, "http://localhost.example:1", false),
            (false, "http://127.0.0.1.example:1", false),
            (true, "https://10.0.0.1:1", true),
        ] {
            assert_eq!(sent(encrypted, uri).is_ok(), goes, "{uri}");
        }
        let refused = sent(false, "http://10.0.0.1:1").unwrap_err();
        assert!(!refused.line().contains("secret"), "{}", refused.line());
        let value = sent(true, "https://a:1").unwrap().unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer secret");
        assert!(!format!("{value:?}").contains("secret"));
        let none = bearer(Some(" "), false, &"http://10.0.0.1:1".parse().unwrap());
        assert!(none.unwrap().0.is_none());
    }

    #[test]
    fn tls_is_asked_for_by_scheme_or_flag() {
        let plain = route(&["--address", "localhost:1"]).unwrap();
        assert!(plain.tls.is_none());
        assert_eq!(plain.endpoint.uri().scheme_str(), Some("http"));
        let error = route(&["--address", "http://a:1", "--tls-ca", "ca.crt"]).unwrap_err();
        assert!(error.line().contains("leave out"), "{}", error.line());
        let error = route(&["--address", "a:1", "--tls-ca", "/no/such/ca.crt"]).unwrap_err();
        for part in ["--tls-ca", "/no/such/ca.crt"] {
            assert!(error.line().contains(part), "{}", error.line());
        }
        let alone = Line::try_parse_from(["test", "--tls-cert", "a.crt"]);
        assert!(alone.unwrap_err().to_string().contains("--tls-key"));
    }
}
