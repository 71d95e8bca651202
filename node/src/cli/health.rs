//! `health`: whether a node takes commands, for scripts and probes.

use std::io::Write;

use clap::Args;
use serde::Serialize;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Output;
use super::client::ClientArgs;
use super::failure::Failure;

/// Flags of `health`.
#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Serialize)]
struct Printed {
    status: &'static str,
}

pub(super) async fn run(args: HealthArgs, output: Output) -> Result<(), Failure> {
    let mut client = HealthClient::new(args.client.connect().await?);
    let request = args.client.call(HealthCheckRequest::default());
    let response = client.check(request).await;
    let response = response
        .map_err(|status| Failure::of_read(&status))?
        .into_inner();
    if response.status() != ServingStatus::Serving {
        return Err(Failure::local(format!(
            "the node at {} does not take commands: it is stopping",
            args.client.address
        )));
    }
    let mut out = std::io::stdout().lock();
    match output {
        Output::Text => writeln!(out, "serving")?,
        Output::Json => super::write_json(&mut out, &Printed { status: "serving" })?,
    }
    Ok(())
}
