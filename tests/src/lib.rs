//! Real processes, real databases and independent oracles for Perennial.
//!
//! What stands here is what the stories in `tests/tests/` are told with: nodes
//! that are started and killed as processes ([`node_process`]), whole clusters of
//! them ([`local_cluster`]) under load ([`cluster_load`]), the command line
//! ([`cli`]), a plain client ([`client`]), tokens ([`issuer`]), databases
//! ([`database`]) and what goes wrong between them ([`proxy`]), and the expected side
//! computed without any code under test ([`flights_oracle`], [`history`]). Those who mean
//! harm speak [`raw_http2`] or feed nonsense ([`fuzz`]), or have a certificate of another
//! [`authority`]. The measurements of the `perennial-bench` binary are in
//! [`mod@bench`], the faults and clients of the `perennial-soak` binary in [`soak`].

pub mod authority;
pub mod bench;
pub mod binaries;
pub mod cli;
pub mod client;
pub mod cluster_load;
pub mod database;
pub mod eventually;
pub mod flights_oracle;
pub mod foreign_writer;
pub mod fuzz;
pub mod history;
pub mod http;
pub mod issuer;
pub mod local_cluster;
pub mod node_process;
pub mod node_thread;
pub mod process_usage;
pub mod proxy;
pub mod raw_http2;
pub mod seed;
pub mod small_disk;
pub mod soak;
