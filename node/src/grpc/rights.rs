//! Which right a call needs: every call of every service on the port for clients.
//!
//! A call without a row is denied to everybody, and a test fails for it.

use crate::auth::Right;

/// What a client has to have for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: nobody is asked who calls.
    Nothing,
    /// To be known, whatever it may otherwise.
    Identity,
    /// A right. The gate asks whether the caller has it for anything at all; for which
    /// entity types is asked by the service, which knows them. `admin` is asked by
    /// [`Audit::admin`](super::audit::Audit::admin) alone, which writes down the answer.
    Has(Right),
}

use Needs::{Has, Identity, Nothing};

const ROWS: &[(&str, Needs)] = &[
    ("/perennial.v1.EntityService/Send", Has(Right::Send)),
    ("/perennial.v1.EntityService/SendStream", Has(Right::Send)),
    ("/perennial.v1.EntityService/GetState", Has(Right::Read)),
    ("/perennial.v1.EntityService/ListEntities", Has(Right::Read)),
    (
        "/perennial.v1.EntityService/DeleteEntity",
        Has(Right::Admin),
    ),
    ("/perennial.v1.EventService/Events", Has(Right::Events)),
    (
        "/perennial.v1.ClusterService/GetCluster",
        Has(Right::Status),
    ),
    (
        "/perennial.v1.ClusterService/DescribeEntity",
        Has(Right::Status),
    ),
    ("/perennial.v1.ClusterService/Drain", Has(Right::Admin)),
    ("/perennial.v1.ClusterService/Passivate", Has(Right::Admin)),
    // Load balancers and probes have no identity, and it says nothing but yes or no.
    ("/grpc.health.v1.Health/Check", Nothing),
    ("/grpc.health.v1.Health/Watch", Nothing),
    // The contract is public, but who asks for it before saying its name is looking for
    // something.
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Identity,
    ),
];

/// `None` for a call nobody may make.
pub(super) fn needs(path: &str) -> Option<Needs> {
    let row = ROWS.iter().find(|(call, _)| *call == path);
    row.map(|(_, needs)| *needs)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Every call in the descriptions that the port serves.
    fn calls() -> Vec<String> {
        let sets = [
            crate::proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        let mut calls = Vec::new();
        for set in sets {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                for service in &file.service {
                    for method in &service.method {
                        let package = file.package();
                        calls.push(format!("/{package}.{}/{}", service.name(), method.name()));
                    }
                }
            }
        }
        calls
    }

    #[test]
    fn every_call_has_one_row_and_every_row_is_a_call() {
        let mut calls = calls();
        let mut rows: Vec<&str> = ROWS.iter().map(|(call, _)| *call).collect();
        calls.sort_unstable();
        rows.sort_unstable();
        assert!(calls.len() >= 12, "{calls:?}");
        assert_eq!(calls, rows);
    }

    #[test]
    fn only_health_is_open() {
        for (call, needs) in ROWS {
            let open = *needs == Nothing;
            assert_eq!(open, call.starts_with("/grpc.health.v1."), "{call}");
        }
        assert_eq!(needs("/perennial.v1.EntityService/send"), None);
        assert_eq!(needs(""), None);
    }
}
