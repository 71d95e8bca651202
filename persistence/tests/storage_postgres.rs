//! What only a database with a network and several writers has: lost connections,
//! stalled ones, rivals, fences between them, a server that goes away.

#![allow(clippy::unwrap_used)]

#[path = "postgres/node.rs"]
mod node;
#[path = "postgres/proxy.rs"]
mod proxy;
#[path = "postgres/raw_client.rs"]
mod raw_client;

#[path = "postgres/deletion.rs"]
mod deletion;
#[path = "postgres/fence.rs"]
mod fence;
#[path = "postgres/global_order.rs"]
mod global_order;
#[path = "postgres/lost_answers.rs"]
mod lost_answers;
#[path = "postgres/outage.rs"]
mod outage;
#[path = "postgres/outage_of_engine.rs"]
mod outage_of_engine;
#[path = "postgres/rivals.rs"]
mod rivals;
#[path = "postgres/tls.rs"]
mod tls;
