//! The entity inspector: which entities there are, where one lives, its state at any
//! number, and its events.

use maud::{Markup, html};
use perennial_persistence::journal::{EntityListing, StoredEvent};
use perennial_persistence::payload::{CodecId, Payload};
use perennial_persistence::sequence_nr::SequenceNr;

use super::indented::indented;
use super::inspection::{Asked, EVENTS_MAX, Entity, Found, InspectionError};
use super::layout::{self, Tab, tile};
use super::shown::{count, date_and_time, in_link, machine_time};
use crate::grpc::cluster_service::state_name;

/// Characters of a state, and of an event, that are shown.
const STATE_SHOWN: usize = 64 << 10;
const EVENT_SHOWN: usize = 2 << 10;

pub(super) fn page(asked: &Asked, types: &[&str], found: &Found) -> Markup {
    let content = html! {
        (heading(asked))
        (form(asked, types))
        @match found {
            Found::Nothing => p .quiet { "Choose a type to see its entities, or look one up by its id." },
            Found::Entities(entities, more) => (list(asked, entities, *more)),
            Found::Entity(entity) => (one(asked, entity)),
        }
    };
    layout::page(&title(asked), Some(Tab::Entity), false, &content)
}

pub(super) fn failed(asked: &Asked, types: &[&str], error: &InspectionError) -> Markup {
    let content = html! {
        (heading(asked))
        (form(asked, types))
        p .warning role="alert" { (error) }
    };
    layout::page(&title(asked), Some(Tab::Entity), false, &content)
}

fn title(asked: &Asked) -> String {
    match (&*asked.entity_type, &*asked.id) {
        ("", _) => "Entities".to_owned(),
        (entity_type, "") => format!("Entities of type {entity_type}"),
        (entity_type, id) => format!("{entity_type} {id}"),
    }
}

fn heading(asked: &Asked) -> Markup {
    html! {
        div .heading {
            h1 {
                @if asked.id.is_empty() { (title(asked)) }
                @else { span .quiet { (asked.entity_type) } " " span .id { (asked.id) } }
            }
        }
    }
}

fn form(asked: &Asked, types: &[&str]) -> Markup {
    html! {
        form .card .lookup action="/entity" method="get" role="search" {
            div {
                label for="type" { "Type" }
                select #type name="type" {
                    @for name in types {
                        option value=(name) selected[*name == asked.entity_type] { (name) }
                    }
                }
            }
            div .wide {
                label for="id" { "Id" }
                input #id name="id" value=(asked.id) placeholder="empty: list all" maxlength="255"
                    autocomplete="off" spellcheck="false" autocapitalize="off";
            }
            button { "Look up" }
        }
    }
}

fn list(asked: &Asked, entities: &[EntityListing], more: bool) -> Markup {
    let of = in_link(&asked.entity_type);
    html! {
        section .card aria-label="Entities" {
            @if entities.is_empty() {
                p .quiet { "No entity of this type has stored anything" @if !asked.after.is_empty() { " after this one" } "." }
            } @else {
                div .scrolling {
                    table {
                        thead { tr { th scope="col" { "Id" } th scope="col" .number { "Events" } } }
                        tbody {
                            @for entity in entities {
                                @let id = entity.persistence_id.entity_id();
                                tr {
                                    td .id { a href={ "/entity?type=" (of) "&id=" (in_link(id)) } { (id) } }
                                    td .number { (count(entity.sequence_nr.get())) }
                                }
                            }
                        }
                    }
                }
            }
            nav .pages aria-label="More entities" {
                @if !asked.after.is_empty() { a href={ "/entity?type=" (of) } { "First page" } }
                @if let Some(last) = entities.last().filter(|_| more) {
                    a rel="next" href={ "/entity?type=" (of) "&after=" (in_link(last.persistence_id.entity_id())) } { "Next page" }
                }
            }
        }
    }
}

fn one(asked: &Asked, entity: &Entity) -> Markup {
    html! {
        (placement(entity))
        div .columns .inspector {
            (state(asked, entity))
            (events(asked, entity))
        }
    }
}

fn placement(entity: &Entity) -> Markup {
    let stored = entity.bounds.highest;
    let deleted = entity.bounds.deleted_to;
    let nothing = html! {};
    html! {
        section aria-label="Where it is" {
            dl .tiles {
                @match &entity.placement {
                    Ok(placement) => {
                        (tile("It is", state_name(placement.entity.state).replace('_', " ").as_str(), &html! {
                            @if !placement.entity.waiting_for.is_empty() { "waits for " (placement.entity.waiting_for) }
                        }, false))
                        (tile("Node", &placement.node.map_or_else(|| "none".to_owned(), |node| node.0.to_string()),
                            &html! { "shard " (placement.shard.0) ", epoch " (placement.epoch.0) }, placement.node.is_none()))
                        (tile("Queued", &count(placement.entity.queued as u64), &html! { "commands" }, false))
                    }
                    Err(error) => (tile("It is", "not known", &html! { (error) }, true)),
                }
                (tile("Sequence number", &count(stored.get()), &match deleted {
                    SequenceNr::ZERO => nothing,
                    deleted => html! { "events up to " (count(deleted.get())) " are deleted" },
                }, false))
            }
        }
    }
}

fn link(asked: &Asked, at: Option<SequenceNr>, to: Option<SequenceNr>) -> String {
    let mut link = format!(
        "/entity?type={}&id={}",
        in_link(&asked.entity_type),
        in_link(&asked.id)
    );
    if let Some(at) = at {
        link.push_str(&format!("&at={at}"));
    }
    if let Some(to) = to {
        link.push_str(&format!("&to={to}"));
    }
    link
}

fn state(asked: &Asked, entity: &Entity) -> Markup {
    let (at, highest) = (entity.at, entity.bounds.highest);
    // The events beside it stay where they are.
    let to = Some(entity.to);
    html! {
        section .card aria-labelledby="state-heading" {
            h2 #state-heading {
                "State "
                @if at == highest { "now" } @else { "at " (count(at.get())) }
            }
            form .at action="/entity" method="get" {
                input type="hidden" name="type" value=(asked.entity_type);
                input type="hidden" name="id" value=(asked.id);
                input type="hidden" name="to" value=(entity.to);
                @if at > SequenceNr::ZERO {
                    a .step rel="prev" href=(link(asked, Some(at.previous()), to)) aria-label="The state before" { "‹" }
                }
                label for="at" { "at number" }
                input #at name="at" type="number" min="0" max=(highest) value=(at) inputmode="numeric";
                span .quiet { "of " (count(highest.get())) }
                button { "Show" }
                @if at < highest {
                    a .step rel="next" href=(link(asked, Some(at.next()), to)) aria-label="The state after" { "›" }
                    a href=(link(asked, None, None)) { "now" }
                }
            }
            @match &entity.state {
                Ok(reply) => (payload(&reply.payload, STATE_SHOWN, "State")),
                Err(error) => p .warning { (error) },
            }
        }
    }
}

fn events(asked: &Asked, entity: &Entity) -> Markup {
    let (first, highest) = (entity.first(), entity.bounds.highest);
    let at = Some(entity.at).filter(|at| *at != highest);
    let last = entity
        .events
        .last()
        .map_or(entity.to, |event| event.sequence_nr);
    let newer = last.plus(EVENTS_MAX).min(highest);
    let oldest = first.plus(EVENTS_MAX - 1).min(highest);
    html! {
        section .card aria-labelledby="events-heading" {
            h2 #events-heading { "Events" }
            @if entity.events.is_empty() {
                p .quiet { "There are none here." }
            } @else {
                ol .stream reversed {
                    @for event in entity.events.iter().rev() { (one_event(asked, entity, event)) }
                }
            }
            nav .pages aria-label="More events" {
                @if entity.from > first && !entity.events.is_empty() {
                    a rel="prev" href=(link(asked, at, Some(entity.from.previous()))) { "Older" }
                    a href=(link(asked, at, Some(oldest))) { "First" }
                }
                @if last < highest {
                    a rel="next" href=(link(asked, at, Some(newer))) { "Newer" }
                    a href=(link(asked, at, None)) { "Latest" }
                }
            }
        }
    }
}

fn one_event(asked: &Asked, entity: &Entity, event: &StoredEvent) -> Markup {
    let nr = event.sequence_nr;
    let is_shown = (nr == entity.at).then_some("true");
    html! {
        li value=(nr) aria-current=[is_shown] {
            p .event-head {
                a href=(link(asked, Some(nr), Some(entity.to))) title="The state after this event" { (count(nr.get())) }
                time datetime=(machine_time(event.created_at)) { (date_and_time(event.created_at)) }
                @if !event.payload.manifest.is_empty() { span .badge { (event.payload.manifest) } }
                @for tag in &event.tags { span .badge { "#" (tag) } }
            }
            (payload(&event.payload, EVENT_SHOWN, &format!("Event {nr}")))
            dl .event-facts {
                @if let Some(command_id) = &event.command_id {
                    div { dt { "command" } dd { (command_id) } }
                }
                @if let Some(metadata) = &event.metadata {
                    @for (key, value) in metadata.iter() {
                        div { dt { (key) } dd { (value) } }
                    }
                }
                div { dt { "writer" } dd { (event.writer) } }
            }
        }
    }
}

/// JSON with line breaks; other texts as they are; other bytes in hexadecimal.
fn payload(payload: &Payload, most: usize, name: &str) -> Markup {
    let bytes = &payload.bytes[..];
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if payload.codec == CodecId::JSON => {
            indented(text).unwrap_or_else(|| text.to_owned())
        }
        Ok(text) if !text.contains(|c: char| c.is_control() && !c.is_whitespace()) => {
            text.to_owned()
        }
        _ => bytes
            .iter()
            .take(most)
            .map(|byte| format!("{byte:02x} "))
            .collect(),
    };
    let end = text
        .char_indices()
        .nth(most)
        .map_or(text.len(), |(at, _)| at);
    html! {
        pre .payload tabindex="0" role="region" aria-label=(name) { code { (text[..end]) } }
        @if end < text.len() {
            p .quiet { "The first " (count(most as u64)) " characters of " (count(bytes.len() as u64)) " bytes." }
        }
    }
}
