//! What stands in `deploy/`, compared with this binary and with itself: no flag, setting
//! or metric that does not exist, no selector that selects something else. Whether the
//! manifests are what Kubernetes expects is checked by `deploy/test`, which needs tools.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "manifests/command_line.rs"]
mod command_line;
#[path = "manifests/files.rs"]
mod files;
#[path = "manifests/to_come.rs"]
mod to_come;

#[path = "manifests/metrics.rs"]
mod metrics;
#[path = "manifests/monitoring.rs"]
mod monitoring;
#[path = "manifests/names.rs"]
mod names;
#[path = "manifests/pods.rs"]
mod pods;
#[path = "manifests/probes.rs"]
mod probes;
#[path = "manifests/runbook.rs"]
mod runbook;
#[path = "manifests/selectors.rs"]
mod selectors;
