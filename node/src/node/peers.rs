//! What this node answers other nodes: hands each message to the part that it is
//! for, once it is clear that it is for this node at all.

use async_trait::async_trait;
use perennial_sharding::leader::Leader;
use perennial_sharding::peer::{
    AcceptedStream, PeerError, PeerHandler, PeerHeader, PeerRequest, PeerResponse,
};
use perennial_sharding::raft::RaftControlPlane;
use perennial_sharding::raft::store::StoreIdentity;
use perennial_sharding::region::Region;

use crate::figures::FigureSource;

/// This node, as others see it.
pub(super) struct Peers {
    pub(super) me: StoreIdentity,
    pub(super) control: RaftControlPlane,
    pub(super) leader: Leader<RaftControlPlane>,
    pub(super) region: Region,
    pub(super) figures: FigureSource,
}

#[async_trait]
impl PeerHandler for Peers {
    async fn handle(
        &self,
        header: PeerHeader,
        request: PeerRequest,
    ) -> Result<PeerResponse, PeerError> {
        check(self.me, &header)?;
        if let Some(answer) = self.control.handle(&header, &request).await {
            return answer;
        }
        Ok(match request {
            PeerRequest::Describe(id) => {
                PeerResponse::Described(self.region.describe_here(&id).await)
            }
            PeerRequest::Passivate(id) => match self.region.passivate_here(&id).await {
                true => PeerResponse::Done,
                // Who asked looks again where it is.
                false => PeerResponse::Described(None),
            },
            PeerRequest::Delete(id) => PeerResponse::Deleted(self.region.delete_here(&id).await),
            PeerRequest::Figures => PeerResponse::Figures(Box::new(self.figures.now())),
            request => self.leader.handle(&header, request).await,
        })
    }

    async fn accept(&self, stream: AcceptedStream) -> Result<(), PeerError> {
        check(self.me, &stream.header)?;
        self.region.accept(stream).await
    }
}

/// Addresses are reused, and clusters are formed anew: what is not meant for this
/// node in this cluster is refused before anything is done about it.
fn check(me: StoreIdentity, header: &PeerHeader) -> Result<(), PeerError> {
    let message = if header.cluster_id != me.cluster_id {
        format!("a node of cluster {} is here", me.cluster_id)
    } else if header.generation != me.generation {
        let (here, there) = (me.generation, header.generation);
        format!("generation {here} of the cluster is here, not {there}")
    } else if header.to != me.node {
        format!("node {} is here", me.node.0)
    } else {
        return Ok(());
    };
    Err(PeerError::WrongPeer {
        node: header.to,
        address: String::new(),
        message,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use perennial_persistence::registry::NodeNr;
    use perennial_persistence::writer::SessionUuid;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_what_is_for_this_node_in_this_generation_is_taken() {
        let me = StoreIdentity {
            cluster_id: Uuid::from_u128(1),
            generation: 2,
            node: NodeNr(3),
        };
        let good = PeerHeader {
            cluster_id: me.cluster_id,
            generation: me.generation,
            from: NodeNr(9),
            session: SessionUuid(Uuid::from_u128(4)),
            to: me.node,
        };
        check(me, &good).unwrap();
        let others = [
            PeerHeader {
                cluster_id: Uuid::nil(),
                ..good
            },
            PeerHeader {
                generation: 1,
                ..good
            },
            PeerHeader {
                to: NodeNr(4),
                ..good
            },
        ];
        for other in others {
            let error = check(me, &other).unwrap_err();
            assert!(matches!(error, PeerError::WrongPeer { .. }), "{error}");
        }
    }
}
