//! Adapters between the events of the code and the events in the journal, so that
//! an entity type can change its events and still read those stored years ago.
//!
//! They are bound to *manifests*, the names an entity type gives the kinds of its
//! events ([`EventSourced::event_manifest`](crate::event_sourced::EventSourced::event_manifest)):
//!
//! * the write side makes one stored event of one event, and can attach tags;
//! * the read side makes no, one or several events of one stored event. Several
//!   share its sequence number: numbers count stored events.
//!
//! A type without adapters reads and writes everything as it is. A type with
//! adapters must bind every manifest: a stored event of another one fails the
//! recovery, and a new event of another one is refused before it is stored, or it
//! could never be read back.
//!
//! Adapters see encoded events and know nothing of state, streams or journals; they
//! must be pure, like everything that takes part in a replay (I-6). An adapter
//! bound to something that does not exist, which in the originals is a mistake of
//! the configuration, is one that does not compile here.
//!
//! ```
//! use perennial_persistence::event_adapter::EventAdapters;
//! # #[derive(Debug)] enum Event { Renamed { first: String, last: String } }
//! // Version 1 was {"name": "Ada Lovelace"}.
//! let adapters = EventAdapters::<Event>::bound()
//!     .bind("renamed.v2")
//!     .read_json("renamed.v1", |event| {
//!         let name = event["name"].as_str().unwrap_or_default();
//!         let (first, last) = name.split_once(' ').unwrap_or((name, ""));
//!         Ok(vec![serde_json::json!({"Renamed": {"first": first, "last": last}})])
//!     })
//!     .skip("printed.v1");
//! ```
//!
//! A whole entity that changed its events: `examples/event_upcast.rs`. Next:
//! `event_sourced/behavior.rs`, which uses them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::journal::NewEvent;
use crate::payload::{CodecId, Payload};

/// Why an adapter could not convert an event.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// No adapter is bound to the manifest.
    #[error(
        "no event adapter is bound to manifest {manifest:?}: bind it in the entity type's adapters(), or use \
         skip(..) if such events mean nothing any more"
    )]
    Unbound {
        /// Of the event.
        manifest: String,
    },
    /// The adapter works on JSON, the event is in another encoding.
    #[error(
        "the event adapter of manifest {manifest:?} reads JSON, the event is of codec {codec}: use read(..), which \
         gets the bytes"
    )]
    NotJson {
        /// Of the event.
        manifest: String,
        /// What it was written with.
        codec: CodecId,
    },
    /// The bytes are not JSON, or the value has no JSON text.
    #[error("the event adapter of manifest {manifest:?} met something that is not JSON: {source}")]
    Json {
        /// Of the event.
        manifest: String,
        /// With the place in the text.
        #[source]
        source: serde_json::Error,
    },
    /// The adapter's own words.
    #[error("{0}")]
    Refused(String),
}

type Read = Box<dyn Fn(&Payload) -> Result<Vec<Bytes>, AdapterError> + Send + Sync>;
type Write = Box<dyn Fn(Payload) -> Result<NewEvent, AdapterError> + Send + Sync>;
type Tagger<Event> = Box<dyn Fn(&Event) -> Vec<String> + Send + Sync>;

/// What is done with the events of one manifest; `None` leaves them as they are.
#[derive(Default)]
struct Binding {
    read: Option<Read>,
    write: Option<Write>,
}

/// The event adapters of one entity type. See the module's text.
pub struct EventAdapters<Event> {
    /// By manifest; `None` when every manifest is read and written as it is.
    bindings: Option<BTreeMap<&'static str, Binding>>,
    tagger: Option<Tagger<Event>>,
    /// A manifest one side of which was bound twice; told at the registration.
    bound_twice: Option<&'static str>,
}

impl<Event> Default for EventAdapters<Event> {
    fn default() -> Self {
        Self::identity()
    }
}

impl<Event> EventAdapters<Event> {
    /// Reads and writes every event as it is, whatever its manifest.
    #[must_use]
    pub const fn identity() -> Self {
        Self {
            bindings: None,
            tagger: None,
            bound_twice: None,
        }
    }

    /// Nothing is bound yet, and what stays unbound can be neither stored nor read.
    #[must_use]
    pub const fn bound() -> Self {
        Self {
            bindings: Some(BTreeMap::new()),
            tagger: None,
            bound_twice: None,
        }
    }

    /// Events of this manifest are stored and read as they are.
    #[must_use]
    pub fn bind(mut self, manifest: &'static str) -> Self {
        self.binding(manifest);
        self
    }

    /// Stored events of this manifest become these, in the type's present codec:
    /// none, one or several, which are applied in order.
    #[must_use]
    pub fn read(
        mut self,
        manifest: &'static str,
        read: impl Fn(&Payload) -> Result<Vec<Bytes>, AdapterError> + Send + Sync + 'static,
    ) -> Self {
        let replaced = self.binding(manifest).read.replace(Box::new(read));
        if replaced.is_some() {
            self.bound_twice.get_or_insert(manifest);
        }
        self
    }

    /// As [`EventAdapters::read`], from JSON to JSON.
    #[must_use]
    pub fn read_json(
        self,
        manifest: &'static str,
        read: impl Fn(serde_json::Value) -> Result<Vec<serde_json::Value>, AdapterError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let not_json = move |source| AdapterError::Json {
            manifest: manifest.to_owned(),
            source,
        };
        self.read(manifest, move |stored| {
            if stored.codec != CodecId::JSON {
                return Err(AdapterError::NotJson {
                    manifest: manifest.to_owned(),
                    codec: stored.codec,
                });
            }
            let value = serde_json::from_slice(&stored.bytes).map_err(not_json)?;
            let bytes = |value| {
                serde_json::to_vec(&value)
                    .map(Bytes::from)
                    .map_err(not_json)
            };
            read(value)?.into_iter().map(bytes).collect()
        })
    }

    /// Stored events of this manifest mean nothing any more.
    #[must_use]
    pub fn skip(self, manifest: &'static str) -> Self {
        self.read(manifest, |_| Ok(Vec::new()))
    }

    /// New events of this manifest are stored as this makes of them. The manifest
    /// it gives them must be bound too.
    #[must_use]
    pub fn write(
        mut self,
        manifest: &'static str,
        write: impl Fn(Payload) -> Result<NewEvent, AdapterError> + Send + Sync + 'static,
    ) -> Self {
        let replaced = self.binding(manifest).write.replace(Box::new(write));
        if replaced.is_some() {
            self.bound_twice.get_or_insert(manifest);
        }
        self
    }

    /// New events get these tags, besides those of their write adapter.
    #[must_use]
    pub fn tag(mut self, tags: impl Fn(&Event) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.tagger = Some(Box::new(tags));
        self
    }

    fn binding(&mut self, manifest: &'static str) -> &mut Binding {
        let bindings = self.bindings.get_or_insert_default();
        bindings.entry(manifest).or_default()
    }

    /// A manifest one side of which was bound twice, so that one of the two would
    /// never be used.
    pub(crate) fn bound_twice(&self) -> Option<&'static str> {
        self.bound_twice
    }

    /// What is stored of an event that was encoded to `payload`.
    pub(crate) fn to_journal(
        &self,
        event: &Event,
        payload: Payload,
    ) -> Result<NewEvent, AdapterError> {
        let mut stored = match self.bindings_of(&payload)? {
            Some(Binding {
                write: Some(write), ..
            }) => {
                let stored = write(payload)?;
                // What is stored must be readable.
                self.bindings_of(&stored.payload)?;
                stored
            }
            _ => NewEvent {
                payload,
                tags: Vec::new(),
            },
        };
        if let Some(tagger) = &self.tagger {
            for tag in tagger(event) {
                if !stored.tags.contains(&tag) {
                    stored.tags.push(tag);
                }
            }
        }
        Ok(stored)
    }

    /// The events a stored one stands for; `None` when it is read as it is.
    pub(crate) fn read_back(&self, stored: &Payload) -> Result<Option<Vec<Bytes>>, AdapterError> {
        match self.bindings_of(stored)? {
            Some(Binding {
                read: Some(read), ..
            }) => read(stored).map(Some),
            _ => Ok(None),
        }
    }

    fn bindings_of(&self, payload: &Payload) -> Result<Option<&Binding>, AdapterError> {
        let Some(bindings) = &self.bindings else {
            return Ok(None);
        };
        match bindings.get(&*payload.manifest) {
            Some(binding) => Ok(Some(binding)),
            None => Err(AdapterError::Unbound {
                manifest: payload.manifest.to_string(),
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stored(manifest: &'static str, json: &'static str) -> Payload {
        Payload {
            manifest: manifest.into(),
            ..Payload::json(json.as_bytes())
        }
    }

    #[test]
    fn identity_leaves_everything_as_it_is() {
        let adapters = EventAdapters::<u8>::identity();
        let payload = stored("whatever", "1");
        assert_eq!(adapters.read_back(&payload).unwrap(), None);
        let written = adapters.to_journal(&1, payload.clone()).unwrap();
        assert_eq!((written.payload, written.tags.len()), (payload, 0));
    }

    #[test]
    fn what_is_not_bound_is_neither_read_nor_written() {
        let adapters = EventAdapters::<u8>::bound().bind("a");
        assert_eq!(adapters.read_back(&stored("a", "1")).unwrap(), None);
        let payload = stored("b", "1");
        let read = adapters.read_back(&payload).unwrap_err();
        let written = adapters.to_journal(&1, payload).unwrap_err();
        for refused in [read, written] {
            assert!(matches!(refused, AdapterError::Unbound { manifest } if manifest == "b"));
        }
    }

    #[test]
    fn one_stored_event_becomes_none_or_several() {
        let adapters = EventAdapters::<u8>::bound()
            .skip("none")
            .read_json("two", |value| Ok(vec![value.clone(), value]));
        let read = |payload| adapters.read_back(&payload).unwrap().unwrap();
        assert!(read(stored("none", "?")).is_empty());
        assert_eq!(read(stored("two", "7")), ["7", "7"]);
    }

    #[test]
    fn what_is_not_json_is_told_apart() {
        let adapters = EventAdapters::<u8>::bound().read_json("a", |value| Ok(vec![value]));
        let damaged = adapters.read_back(&stored("a", "{")).unwrap_err();
        assert!(matches!(damaged, AdapterError::Json { .. }), "{damaged}");
        let protobuf = Payload {
            codec: CodecId::PROTOBUF,
            ..stored("a", "1")
        };
        let refused = adapters.read_back(&protobuf).unwrap_err();
        assert!(matches!(refused, AdapterError::NotJson { .. }), "{refused}");
    }

    /// The write side is 1→1, and what it stores must be readable again.
    #[test]
    fn the_write_side_renames_and_tags() {
        let rename = |to: &'static str| {
            move |payload| {
                let payload = Payload {
                    manifest: to.into(),
                    ..payload
                };
                let tags = vec!["red".to_owned()];
                Ok(NewEvent { payload, tags })
            }
        };
        let tags = |event: &u8| vec!["red".to_owned(), format!("e{event}")];
        let adapters = EventAdapters::bound()
            .write("a", rename("stored-a"))
            .bind("stored-a")
            .write("b", rename("stored-b"))
            .tag(tags);
        let written = adapters.to_journal(&5, stored("a", "1")).unwrap();
        assert_eq!(written.payload.manifest, "stored-a");
        assert_eq!(written.tags, ["red", "e5"]);
        let refused = adapters.to_journal(&5, stored("b", "1")).unwrap_err();
        assert!(matches!(refused, AdapterError::Unbound { manifest } if manifest == "stored-b"));
    }

    #[test]
    fn binding_a_side_twice_is_noticed() {
        let twice = EventAdapters::<u8>::bound().skip("a").skip("a");
        assert_eq!(twice.bound_twice(), Some("a"));
        let once = EventAdapters::<u8>::bound().bind("a").skip("a").bind("b");
        assert_eq!(once.bound_twice(), None);
    }
}
