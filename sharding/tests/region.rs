//! Regions of several nodes in one process: real engines over one journal in memory,
//! the loopback network, and a control plane that applies commands at once.
//!
//! Clocks are paused: time passes when nothing else can happen.

#![allow(clippy::unwrap_used)]

#[path = "region/fixture.rs"]
mod fixture;
#[path = "region/handoff.rs"]
mod handoff;
#[path = "region/random.rs"]
mod random;
#[path = "region/routing.rs"]
mod routing;
#[path = "region/takeover.rs"]
mod takeover;
