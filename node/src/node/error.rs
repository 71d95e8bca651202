//! Why a node cannot start, or ended by itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use perennial_persistence::entity_types::RegistrationError;
use perennial_persistence::registry::RegistryError;
use perennial_persistence::storage::StorageError;
use perennial_sharding::forming::entry::EntryError;
use uuid::Uuid;

use crate::data_dir::DataDirError;
use crate::grpc::server::ServeError;

/// Why a node cannot start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An entity type cannot be registered.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// No journal was given, and there is no data directory to put one in.
    #[error("no journal is configured: set persistence.journal.url, or give --journal")]
    JournalRequired,
    /// A durable journal was given, and no data directory.
    #[error("a durable journal needs a data directory, which keeps who the node is: give one")]
    DataDirRequired,
    /// An address others can reach, on a port without encryption.
    #[error(
        "{address} can be reached from other machines, and connections are not encrypted or authenticated: use a \
         loopback address such as 127.0.0.1, or `serve --insecure` in a network where everybody is trusted"
    )]
    NotLoopback {
        /// Given.
        address: SocketAddr,
    },
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
    /// The data directory belongs to another cluster.
    #[error(
        "the data directory {} belongs to node {node} of cluster {ours}, and the journal to cluster {theirs}: use \
         the journal of that cluster, or an empty data directory", .path.display()
    )]
    ForeignDataDir {
        /// The directory.
        path: PathBuf,
        /// The node in it.
        node: u64,
        /// The directory's cluster.
        ours: Uuid,
        /// The journal's cluster.
        theirs: Uuid,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database refused this node.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The node cannot enter the cluster of its database.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// Metrics cannot be recorded.
    #[error("metrics cannot be recorded, because this process has another recorder: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// Another process writes in this node's place.
    #[error(
        "another process has started as this node and fenced its session: only one may run; nothing acknowledged is lost"
    )]
    Fenced,
    /// The gRPC port failed.
    #[error("the gRPC port failed: {0}")]
    Serve(#[from] ServeError),
    /// The gRPC port ended although nobody asked.
    #[error("the gRPC port ended unexpectedly: see the log for a panic")]
    ServerEnded,
}
