//! `cluster status`: what a person wants to know first, once or as it changes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, SystemTime};

use clap::Args;
use comfy_table::{Table, TableStyle};
use serde::Serialize;

use super::get_cluster;
use crate::cli::client::ClientArgs;
use crate::cli::failure::Failure;
use crate::cli::{Output, write_json};
use crate::proto::v1::GetClusterResponse;
use crate::proto::v1::get_cluster_response::{Member, RecentEvent};

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Recent events shown to a person.
const EVENTS_SHOWN: usize = 10;

/// Flags of `cluster status`.
#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    /// Follow what changes, until interrupted.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: StatusArgs, output: Output) -> Result<(), Failure> {
    if !args.watch {
        return print(&shown(&get_cluster(&args.client).await?, output)?);
    }
    let mut before = String::new();
    loop {
        // A node that restarts is waited for; it is what one watches for.
        let now = match get_cluster(&args.client).await {
            Ok(cluster) => shown(&cluster, output)?,
            Err(failure) if output == Output::Text => format!("{}\n", failure.line()),
            Err(failure) => return Err(failure),
        };
        if now != before {
            if std::io::stdout().is_terminal() && output == Output::Text {
                // The cursor goes to the corner, and everything below is cleared.
                print(&format!("\x1b[H\x1b[J{now}"))?;
            } else {
                print(&now)?;
            }
            before = now;
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn shown(cluster: &GetClusterResponse, output: Output) -> Result<String, Failure> {
    match output {
        Output::Text => Ok(text(cluster)),
        Output::Json => {
            let mut line = Vec::new();
            write_json(&mut line, &PrintedCluster::new(cluster))?;
            // What serde_json writes is UTF-8.
            Ok(String::from_utf8_lossy(&line).into_owned())
        }
    }
}

fn text(cluster: &GetClusterResponse) -> String {
    let mut text = String::new();
    let leader = match cluster.leader_node_id.as_str() {
        "" => "no leader".to_owned(),
        leader => format!("node {leader} leads"),
    };
    // Writing to a String never fails.
    let _ = writeln!(
        text,
        "cluster {}, {} shards, {leader} (term {})\n",
        cluster.cluster_id, cluster.number_of_shards, cluster.term
    );
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header([
        "node",
        "address",
        "status",
        "version",
        "votes",
        "shards",
        "live entities",
    ]);
    for member in &cluster.members {
        table.add_row([
            member.node_id.clone(),
            member.address.clone(),
            member.status.clone(),
            member.version.clone(),
            if member.voter { "yes" } else { "" }.to_owned(),
            member.shards_owned.to_string(),
            member.live_entities.to_string(),
        ]);
    }
    let _ = writeln!(text, "{table}");
    for line in movements(cluster) {
        let _ = writeln!(text, "{line}");
    }
    let skipped = cluster.recent_events.len().saturating_sub(EVENTS_SHOWN);
    if !cluster.recent_events.is_empty() {
        let _ = writeln!(text, "\nlately (UTC)");
    }
    for event in cluster.recent_events.iter().skip(skipped) {
        let _ = writeln!(text, "  {}  {}", time_of(event), event.text);
    }
    text
}

/// What is under way, and what is missing; nothing in a quiet cluster.
fn movements(cluster: &GetClusterResponse) -> Vec<String> {
    let mut moving: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    for shard in &cluster.shards {
        match shard.state.as_str() {
            "owned" => {}
            "handing_off" => {
                let way = (shard.node_id.as_str(), shard.target_node_id.as_str());
                *moving.entry(way).or_default() += 1;
            }
            state => *others.entry(state).or_default() += 1,
        }
    }
    let mut lines = Vec::new();
    for ((from, to), count) in moving {
        lines.push(format!("moving from node {from} to node {to}: {count}"));
    }
    for (state, count) in others {
        let meaning = match state {
            "unassigned" => "without a home",
            "fencing" => "waiting until their last owner can write no more",
            other => other,
        };
        lines.push(format!("{meaning}: {count}"));
    }
    lines
}

fn time_of(event: &RecentEvent) -> String {
    let at = event.at.and_then(|at| SystemTime::try_from(at).ok());
    at.map_or_else(String::new, |at| {
        humantime::format_rfc3339_seconds(at).to_string()
    })
}

#[derive(Serialize)]
struct PrintedCluster<'a> {
    cluster_id: &'a str,
    number_of_shards: u32,
    leader_node_id: &'a str,
    term: u64,
    members: Vec<PrintedMember<'a>>,
    shards_moving: usize,
    shards_without_home: usize,
    recent_events: Vec<PrintedEvent<'a>>,
}

#[derive(Serialize)]
struct PrintedMember<'a> {
    node_id: &'a str,
    address: &'a str,
    peer_address: &'a str,
    session: &'a str,
    status: &'a str,
    version: &'a str,
    voter: bool,
    shards_owned: u32,
    live_entities: u64,
}

#[derive(Serialize)]
struct PrintedEvent<'a> {
    at: String,
    text: &'a str,
}

impl<'a> PrintedCluster<'a> {
    fn new(cluster: &'a GetClusterResponse) -> Self {
        let in_state = |state: &str| {
            let shards = cluster.shards.iter();
            shards.filter(|shard| shard.state == state).count()
        };
        let member = |member: &'a Member| PrintedMember {
            node_id: &member.node_id,
            address: &member.address,
            peer_address: &member.peer_address,
            session: &member.session,
            status: &member.status,
            version: &member.version,
            voter: member.voter,
            shards_owned: member.shards_owned,
            live_entities: member.live_entities,
        };
        let event = |event: &'a RecentEvent| PrintedEvent {
            at: time_of(event),
            text: &event.text,
        };
        Self {
            cluster_id: &cluster.cluster_id,
            number_of_shards: cluster.number_of_shards,
            leader_node_id: &cluster.leader_node_id,
            term: cluster.term,
            members: cluster.members.iter().map(member).collect(),
            shards_moving: in_state("handing_off"),
            shards_without_home: in_state("unassigned"),
            recent_events: cluster.recent_events.iter().map(event).collect(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::proto::v1::get_cluster_response::Shard;

    fn cluster() -> GetClusterResponse {
        let member = |node_id: &str, status: &str, voter| Member {
            node_id: node_id.into(),
            address: format!("10.0.0.{node_id}:7400"),
            status: status.into(),
            version: "0.1.0".into(),
            voter,
            shards_owned: 2,
            live_entities: 12_345,
            ..Member::default()
        };
        let shard = |node_id: &str, target_node_id: &str, state: &str| Shard {
            node_id: node_id.into(),
            target_node_id: target_node_id.into(),
            state: state.into(),
            ..Shard::default()
        };
        let event = |nr: u64| RecentEvent {
            at: Some((SystemTime::UNIX_EPOCH + Duration::from_secs(nr)).into()),
            text: format!("event {nr}"),
        };
        GetClusterResponse {
            cluster_id: "c".into(),
            number_of_shards: 5,
            leader_node_id: "1".into(),
            term: 7,
            members: vec![member("1", "up", true), member("2", "leaving", false)],
            shards: vec![
                shard("1", "", "owned"),
                shard("2", "1", "handing_off"),
                shard("2", "1", "handing_off"),
                shard("", "", "unassigned"),
                shard("1", "", "fencing"),
            ],
            recent_events: (1..=11).map(event).collect(),
        }
    }

    #[test]
    fn a_person_sees_nodes_movements_and_the_latest_events() {
        let text = text(&cluster());
        for part in [
            "5 shards, node 1 leads (term 7)",
            "10.0.0.2:7400",
            "leaving",
            "12345",
            "moving from node 2 to node 1: 2",
            "without a home: 1",
            "can write no more: 1",
            "1970-01-01T00:00:11Z  event 11",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
        assert!(!text.contains("event 1\n"), "too many events:\n{text}");
    }

    #[test]
    fn a_quiet_cluster_says_no_more_than_its_nodes() {
        let mut quiet = cluster();
        quiet.leader_node_id.clear();
        quiet.shards.clear();
        quiet.recent_events.clear();
        let text = text(&quiet);
        assert!(text.contains("no leader"), "{text}");
        assert!(
            !text.contains("moving") && !text.contains("lately"),
            "{text}"
        );
    }

    #[test]
    fn a_script_gets_numbers() {
        let line = shown(&cluster(), Output::Json).unwrap();
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["shards_moving"], 2);
        assert_eq!(json["shards_without_home"], 1);
        assert_eq!(json["members"][1]["status"], "leaving");
        assert_eq!(json["recent_events"][0]["text"], "event 1");
        assert_eq!(line.lines().count(), 1);
    }
}
