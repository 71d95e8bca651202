//! The trace a command belongs to, if it belongs to one.
//!
//! Few commands are traced: whether one is, is decided where it enters, and a command
//! that is not carries one empty word on its way. What is traced are spans of the
//! `tracing` crate with the target [`TARGET`]; what becomes of them, and how a trace goes
//! from process to process, is the business of the node. Next: `runtime/group_commit.rs`,
//! where the traces of a batch meet.

use std::sync::Arc;

use tracing::Span;

/// The target of spans and events that belong to traces, and not to the log.
pub const TARGET: &str = "perennial::trace";

/// A place in a trace, or none. It lasts as long as anybody has a clone of it.
#[derive(Debug, Clone, Default)]
pub struct Trace(Option<Arc<Place>>);

#[derive(Debug)]
struct Place(Span);

impl Trace {
    /// Of what is not traced.
    pub const NONE: Self = Self(None);

    /// The trace that this span belongs to; none if nobody listens to it.
    #[must_use]
    pub fn of(span: Span) -> Self {
        if span.is_disabled() {
            return Self::NONE;
        }
        Self(Some(Arc::new(Place(span))))
    }

    /// Its span.
    #[must_use]
    pub fn span(&self) -> Option<&Span> {
        self.0.as_deref().map(|place| &place.0)
    }

    /// A step on the way; nothing is done for what is not traced.
    #[must_use]
    pub fn step(&self, make: impl FnOnce(&Span) -> Span) -> Self {
        self.span().map_or(Self::NONE, |span| Self::of(make(span)))
    }

    /// Its span, to do something in; a disabled one if there is none.
    #[must_use]
    pub fn to_span(&self) -> Span {
        self.span().cloned().unwrap_or_else(Span::none)
    }

    /// Does something so that what is logged meanwhile says that it belongs to this.
    pub fn in_scope<R>(&self, work: impl FnOnce() -> R) -> R {
        match self.span() {
            Some(span) => span.in_scope(work),
            None => work(),
        }
    }
}

impl Drop for Place {
    /// A span that was entered ends for collectors where it was last left, though what
    /// was begun in it goes on: so it is left once more.
    fn drop(&mut self) {
        self.0.in_scope(|| ());
    }
}
