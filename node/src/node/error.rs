//! Why a node cannot start, or ended by itself.

use std::net::SocketAddr;

use perennial_persistence::entity_types::RegistrationError;
use perennial_persistence::registry::RegistryError;
use perennial_persistence::storage::StorageError;
use perennial_sharding::forming::entry::EntryError;
use perennial_sharding::forming::presence::PresenceEnd;
use perennial_sharding::raft::RaftError;

use crate::auth::JwksFileError;
use crate::config::{InvalidClusterSettings, SettingsError};
use crate::data_dir::DataDirError;
use crate::grpc::server::ServeError;
use crate::tls::TlsError;

/// Why a node cannot start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An entity type cannot be registered.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// An idle time-out was given for entities that there are none of.
    #[error(
        "sharding.passivation.idle_timeouts names {name:?}, which is no entity type of this program: use one of {known}"
    )]
    IdleTimeoutOfUnknownType {
        /// In the settings.
        name: String,
        /// The names of those that there are.
        known: String,
    },
    /// No journal was given, and there is no data directory to put one in.
    #[error("no journal is configured: set persistence.journal.url, or give --journal")]
    JournalRequired,
    /// A durable journal was given, and no data directory.
    #[error("a durable journal needs a data directory, which keeps who the node is: give one")]
    DataDirRequired,
    /// An address others can reach, on a port without encryption.
    #[error(
        "{address} ({flag}) can be reached from other machines, and connections are not encrypted: set {setting} and \
         what belongs to it, use a loopback address such as 127.0.0.1, or `serve --insecure` in a network where \
         everybody is trusted"
    )]
    NotLoopback {
        /// Given.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// The setting that encrypts it.
        setting: &'static str,
    },
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A port cannot be bound.
    #[error("cannot listen on {address}: {source}; choose another address with {flag}")]
    Bind {
        /// Given.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The journal cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database refused this node, or cannot be asked.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A cluster cannot begin anew while a node of it runs.
    #[error("node {node} is alive: stop all nodes first; nothing was changed")]
    NodesAlive {
        /// The node.
        node: u64,
    },
    /// The node cannot enter the cluster.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The node cannot stay in the cluster as it is.
    #[error("{0}: restart this node")]
    Presence(#[from] PresenceEnd),
    /// The node was taken out of the cluster before it was up.
    #[error("this node was taken out of the cluster while it started: start it again to join anew")]
    Removed,
    /// The node has no part in the cluster's decisions any more.
    #[error(transparent)]
    Raft(#[from] RaftError),
    /// Settings of the cluster contradict each other.
    #[error(transparent)]
    Settings(#[from] InvalidClusterSettings),
    /// Authentication is set up by halves.
    #[error(transparent)]
    AuthSettings(#[from] SettingsError),
    /// The keys of tokens cannot be read.
    #[error("{0}: {source}", source = std::error::Error::source(.0).map(ToString::to_string).unwrap_or_default())]
    Jwks(#[from] JwksFileError),
    /// Metrics cannot be recorded.
    #[error("metrics cannot be recorded, because this process has another recorder: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// The gRPC port cannot be served.
    #[error("the gRPC port cannot be served: {0}")]
    Serve(#[from] ServeError),
    /// A part of the node ended although nobody asked.
    #[error("{task} ended unexpectedly: see the log for a panic")]
    TaskEnded {
        /// Which part.
        task: &'static str,
    },
}
