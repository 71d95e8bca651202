//! The page of the cluster: figures, shards as a picture, nodes, what moves, what
//! happened.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use maud::{Markup, html};
use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::ShardNr;
use perennial_sharding::cluster_state::{Member, MemberStatus};
use perennial_sharding::peer::NodeFigures;

use super::layout::{self, Tab, tile};
use super::overview::{Overview, Place, Totals};
use super::shard_picture::picture;
use super::shown::{age, count, date_and_time, machine_time, ranges, rate, time, time_of_day};
use crate::figures::quantile;
use crate::grpc::cluster_service::status_name;

/// A node whose state is so far behind the others' is shown as such.
const LAG_SHOWN: u64 = 100;
/// Size of a line of rates.
const LINE_WIDTH: f64 = 120.0;
const LINE_HEIGHT: f64 = 28.0;

/// The whole page.
pub(super) fn page(overview: &Overview) -> Markup {
    let content = html! {
        div #live { (live(overview)) }
    };
    layout::page("Cluster", Some(Tab::Cluster), true, &content)
}

/// The part of it that changes.
pub(super) fn live(overview: &Overview) -> Markup {
    let totals = overview.totals();
    html! {
        (heading(overview))
        (tiles(overview, &totals))
        (shards(overview))
        (nodes(overview))
        div .columns {
            (moves(overview))
            (events(overview))
        }
    }
}

fn heading(overview: &Overview) -> Markup {
    let state = &overview.state;
    html! {
        div .heading {
            h1 { "Cluster" }
            p .facts {
                span { (count(state.members.len() as u64)) " nodes" }
                span { (count(state.number_of_shards().into())) " shards" }
                span { "generation " (state.generation) }
                span { "seen by node " (overview.this_node.0) }
                span {
                    "at "
                    time datetime=(machine_time(overview.at)) { (time_of_day(overview.at)) }
                    " UTC"
                }
            }
        }
    }
}

fn tiles(overview: &Overview, totals: &Totals) -> Markup {
    let nothing = html! {};
    let leadership = &overview.leadership;
    let leader = leadership
        .leader
        .map_or_else(|| "none".to_owned(), |leader| format!("node {}", leader.0));
    let asked = overview
        .members()
        .filter(|it| it.status != MemberStatus::Down)
        .count();
    let silent = asked.saturating_sub(overview.figures.len());
    html! {
        section aria-label="Figures of the cluster" {
            dl .tiles {
                (tile("Commands", &rate(totals.commands_per_second),
                    &html! { "a second" (line(&totals.history)) }, false))
                (tile("Failing", &rate(totals.failures_per_second),
                    &html! { "a second" }, totals.failures_per_second >= 0.05))
                (tile("Time to the answer", &time(totals.p50),
                    &html! { "p50 · p99 " b { (time(totals.p99)) } }, false))
                (tile("Events stored", &rate(totals.events_per_second), &html! { "a second" }, false))
                (tile("Entities in memory", &count(totals.live_entities),
                    &html! { (count(totals.commands_waiting)) " commands wait" }, false))
                (tile("Recoveries", &count(totals.recoveries_running),
                    &html! {
                        "of " (count(totals.recoveries_max)) " at once"
                        @if totals.recoveries_waiting > 0 { " · " b { (count(totals.recoveries_waiting)) " wait" } }
                    }, false))
                (tile("Journal", if totals.without_journal == 0 { "in reach" } else { "out of reach" },
                    &match totals.without_journal {
                        0 => nothing,
                        nodes => html! { "of " (nodes) " nodes" },
                    }, totals.without_journal > 0))
                (tile("Leader", &leader, &html! { "term " (leadership.term) }, leadership.leader.is_none()))
            }
            @if silent > 0 {
                p .warning { (silent) " of " (asked) " nodes did not say how they are: the figures are of the others." }
            }
        }
    }
}

fn shards(overview: &Overview) -> Markup {
    let places = overview.places();
    let is = |of: fn(&Place) -> bool| places.keys().any(of);
    html! {
        section .card aria-labelledby="shards-heading" {
            h2 #shards-heading { "Shards" }
            (picture(overview))
            ul .legend {
                @for member in overview.members() {
                    li { span class={ "swatch " (overview.colour(member.node)) } {} "node " (member.node.0) }
                }
                @if is(|place| matches!(place, Place::Moving(..))) {
                    li { span .swatch .moving {} "on its way, old owner below, new one above" }
                }
                @if is(|place| matches!(place, Place::Fencing(_))) {
                    li { span .swatch .fencing {} "waits until its former owner is fenced" }
                }
                @if is(|place| matches!(place, Place::Homeless)) {
                    li { span .swatch .homeless {} "without a home" }
                }
            }
            details #shards-table {
                summary { "As a table" }
                div .scrolling {
                    table {
                        thead { tr { th scope="col" { "Where" } th scope="col" .number { "Shards" } th scope="col" { "Which" } } }
                        tbody {
                            @for (place, shards) in &places {
                                tr {
                                    th scope="row" { (place_name(*place)) }
                                    td .number { (count(shards.len() as u64)) }
                                    td .ranges { (ranges(shards.iter().map(|shard| shard.0))) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn place_name(place: Place) -> String {
    match place {
        Place::Owned(node) => format!("node {}", node.0),
        Place::Moving(from, to) => format!("from node {} to node {}", from.0, to.0),
        Place::Fencing(node) => format!("node {}, not fenced", node.0),
        Place::Homeless => "no home".to_owned(),
    }
}

fn nodes(overview: &Overview) -> Markup {
    html! {
        section aria-labelledby="nodes-heading" {
            h2 #nodes-heading { "Nodes" }
            div .nodes {
                @for member in overview.members() { (node(overview, member)) }
            }
        }
    }
}

fn node(overview: &Overview, member: &Member) -> Markup {
    let nr = member.node;
    let figures = overview.figures.get(&nr);
    let owned = overview.state.shards_of(nr).count() as u64;
    let all = u64::from(overview.state.number_of_shards());
    let most_live = overview.figures.values().map(|it| it.live_entities).max();
    let id = format!("node-{}", nr.0);
    html! {
        article class={ "card node " (overview.colour(nr)) } aria-labelledby=(id) {
            header {
                h3 id=(id) { "Node " (nr.0) }
                (badges(overview, member))
            }
            p .address { (member.address) span .quiet { " · " (member.version) (up_for(figures)) } }
            dl .bars {
                (bar("Shards", owned, all, &format!("{} of {}", count(owned), count(all))))
                @match figures {
                    Some(figures) => (bar("Entities", figures.live_entities, most_live.unwrap_or(0),
                        &count(figures.live_entities))),
                    None => {},
                }
            }
            @match figures {
                Some(figures) => (node_figures(overview, figures)),
                None => p .quiet { @if member.status == MemberStatus::Down { "It is down." } @else { "It does not answer." } },
            }
        }
    }
}

fn badges(overview: &Overview, member: &Member) -> Markup {
    let leads = overview.leadership.leader == Some(member.node);
    let votes = overview.voters.contains(&member.node);
    let status = status_name(member.status);
    html! {
        ul .badges aria-label="State" {
            li class={ "badge status-" (status) } { (status) }
            @if leads { li .badge .leader { "leader" } }
            @else if votes { li .badge { "voter" } }
            @else { li .badge { "learner" } }
            @if member.removing { li .badge .alarming { "leaves for good" } }
            @if member.node == overview.this_node { li .badge { "this page" } }
        }
    }
}

fn up_for(figures: Option<&NodeFigures>) -> String {
    figures.map_or_else(String::new, |figures| {
        format!(" · up {}", age(figures.uptime))
    })
}

/// A bar of how much there is of how much there may be.
fn bar(name: &str, value: u64, of: u64, text: &str) -> Markup {
    let width = (value as f64 / of.max(1) as f64 * 100.0).clamp(0.0, 100.0);
    html! {
        div .bar-row {
            dt { (name) }
            dd {
                svg .bar-picture aria-hidden="true" viewBox="0 0 100 6" preserveAspectRatio="none" {
                    rect .track width="100" height="6" {}
                    rect .filled width=(format!("{width:.1}")) height="6" {}
                }
                span { (text) }
            }
        }
    }
}

fn node_figures(overview: &Overview, figures: &NodeFigures) -> Markup {
    let newest = overview
        .figures
        .values()
        .map(|it| it.index)
        .max()
        .unwrap_or(0);
    let behind = newest.saturating_sub(figures.index);
    let (p50, p99) = (
        quantile(&figures.latencies, 0.5),
        quantile(&figures.latencies, 0.99),
    );
    html! {
        (line(&figures.history))
        dl .figures {
            div { dt { "Commands/s" } dd { (rate(figures.commands_per_second)) } }
            div { dt { "Events/s" } dd { (rate(figures.events_per_second)) } }
            div { dt { "p50" } dd { (time(p50)) } }
            div { dt { "p99" } dd { (time(p99)) } }
            div { dt { "Recoveries" } dd {
                (count(figures.recoveries_running)) " of " (count(figures.recoveries_max))
                @if figures.recoveries_waiting > 0 { ", " (count(figures.recoveries_waiting)) " wait" }
            } }
            div { dt { "Waiting" } dd { (count(figures.commands_waiting)) } }
            @if figures.failures_per_second >= 0.05 {
                div .alarming { dt { "Failing/s" } dd { (rate(figures.failures_per_second)) } }
            }
            @if !figures.journal_in_reach {
                div .alarming { dt { "Journal" } dd { "out of reach" } }
            }
            @if behind >= LAG_SHOWN {
                div .alarming { dt { "Behind the log" } dd { (count(behind)) " entries" } }
            }
        }
    }
}

/// Commands a second over the last minute, as a line.
fn line(history: &[u32]) -> Markup {
    let most = history.iter().copied().max().unwrap_or(0);
    if history.len() < 2 || most == 0 {
        return html! {};
    }
    let step = LINE_WIDTH / (history.len() - 1) as f64;
    let point = |(at, value): (usize, &u32)| {
        let height = f64::from(*value) / f64::from(most) * (LINE_HEIGHT - 2.0);
        format!("{:.1},{:.1}", at as f64 * step, LINE_HEIGHT - 1.0 - height)
    };
    let points: Vec<String> = history.iter().enumerate().map(point).collect();
    let points = points.join(" ");
    let view = format!("0 0 {LINE_WIDTH} {LINE_HEIGHT}");
    let area = format!("0,{LINE_HEIGHT} {points} {LINE_WIDTH},{LINE_HEIGHT}");
    html! {
        svg .line role="img" viewBox=(view) preserveAspectRatio="none" {
            title { "The last " (history.len()) " seconds, at most " (count(most.into())) " a second" }
            polygon points=(area) {}
            polyline points=(points) {}
        }
    }
}

fn moves(overview: &Overview) -> Markup {
    let mut moving: BTreeMap<(NodeNr, NodeNr), Vec<ShardNr>> = BTreeMap::new();
    for (place, shards) in overview.places() {
        if let Place::Moving(from, to) = place {
            moving.entry((from, to)).or_default().extend(shards);
        }
    }
    html! {
        section .card aria-labelledby="moves-heading" {
            h2 #moves-heading { "Handoffs under way" }
            @if moving.is_empty() {
                p .quiet { "None: every shard is where it is to be." }
            } @else {
                div .scrolling {
                    table {
                        thead { tr {
                            th scope="col" { "From" } th scope="col" { "To" }
                            th scope="col" .number { "Shards" } th scope="col" { "Which" }
                        } }
                        tbody {
                            @for ((from, to), shards) in &moving {
                                tr {
                                    td { (swatch(overview, *from)) "node " (from.0) }
                                    td { (swatch(overview, *to)) "node " (to.0) }
                                    td .number { (count(shards.len() as u64)) }
                                    td .ranges { (ranges(shards.iter().map(|shard| shard.0))) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn swatch(overview: &Overview, node: NodeNr) -> Markup {
    html! { span class={ "swatch " (overview.colour(node)) } {} }
}

fn events(overview: &Overview) -> Markup {
    let events = overview.state.recent_events.iter().rev();
    html! {
        section .card aria-labelledby="events-heading" {
            h2 #events-heading { "What happened lately" }
            @if overview.state.recent_events.is_empty() {
                p .quiet { "Nothing yet." }
            } @else {
                ol #events .events tabindex="0" aria-labelledby="events-heading" {
                    @for event in events {
                        @let at = SystemTime::UNIX_EPOCH + Duration::from_millis(event.at.min(MILLIS_MAX));
                        li {
                            time datetime=(machine_time(at)) { (date_and_time(at)) }
                            span { (event.text) }
                        }
                    }
                }
            }
        }
    }
}

/// Later times are of a broken clock, and cannot be added to others.
const MILLIS_MAX: u64 = 253_402_300_799_000;
