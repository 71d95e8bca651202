//! Perennial, a cluster-sharded persistent entity service.
pub mod proto;
pub mod samples;
