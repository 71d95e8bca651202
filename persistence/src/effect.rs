//! What a command handler of an [`EventSourced`] entity decides.
//!
//! An [`Effect`] is a value: making one does nothing. The engine stores the
//! events, applies them, and only after the commit lets the reply out
//! (promise I-4). Next: `event_sourced.rs`, which carries effects out.

use crate::event_sourced::EventSourced;

/// What a command handler decides. Build one with [`Effect::persist`],
/// [`Effect::persist_all`], [`Effect::none`], [`Effect::reply`],
/// [`Effect::reject`] or [`Effect::unhandled`], then chain what follows.
#[must_use = "an effect does nothing unless the handler returns it"]
pub struct Effect<E: EventSourced> {
    pub(crate) decision: Decision<E>,
    pub(crate) then_snapshot: bool,
    pub(crate) then_stop: bool,
}

pub(crate) type ReplyWith<E> =
    Box<dyn FnOnce(&<E as EventSourced>::State) -> <E as EventSourced>::Reply + Send>;

pub(crate) enum Decision<E: EventSourced> {
    Proceed {
        events: Events<E::Event>,
        reply: Option<ReplyWith<E>>,
    },
    Reject {
        reason: String,
        message: String,
    },
    Unhandled,
}

/// One event is by far the most usual number, and needs no list.
pub(crate) enum Events<T> {
    None,
    One(T),
    Many(Vec<T>),
}

impl<T> Events<T> {
    pub(crate) fn into_vec(self) -> Vec<T> {
        match self {
            Self::None => Vec::new(),
            Self::One(event) => vec![event],
            Self::Many(events) => events,
        }
    }
}

impl<E: EventSourced> Effect<E> {
    fn proceed(events: Events<E::Event>) -> Self {
        Self {
            decision: Decision::Proceed {
                events,
                reply: None,
            },
            then_snapshot: false,
            then_stop: false,
        }
    }

    /// Store one event, then apply it.
    pub fn persist(event: E::Event) -> Self {
        Self::proceed(Events::One(event))
    }

    /// Store several events, all or none (promise I-7), then apply them in order.
    /// An empty list is the same as [`Effect::none`].
    pub fn persist_all(events: Vec<E::Event>) -> Self {
        Self::proceed(if events.is_empty() {
            Events::None
        } else {
            Events::Many(events)
        })
    }

    /// Store nothing.
    pub fn none() -> Self {
        Self::proceed(Events::None)
    }

    /// Store nothing and answer with this.
    pub fn reply(reply: E::Reply) -> Self
    where
        E::Reply: Send,
    {
        Self::none().then_reply(move |_| reply)
    }

    /// Store nothing and refuse the command by the entity's own rules. `reason`
    /// is for programs, in capitals (`INSUFFICIENT_FUNDS`); `message` for people.
    pub fn reject(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            decision: Decision::Reject {
                reason: reason.into(),
                message: message.into(),
            },
            then_snapshot: false,
            then_stop: false,
        }
    }

    /// This entity does not handle this command, or not in this state.
    pub fn unhandled() -> Self {
        Self {
            decision: Decision::Unhandled,
            then_snapshot: false,
            then_stop: false,
        }
    }

    /// Answer with what this function makes of the state after the events.
    ///
    /// It must be pure: it runs before the events are stored, its result is
    /// stored with them so that a retry of the command gets the same answer,
    /// and it is given out after the commit. Has no effect on a rejection.
    /// Without it the reply is an empty payload.
    pub fn then_reply(
        mut self,
        make_reply: impl FnOnce(&E::State) -> E::Reply + Send + 'static,
    ) -> Self {
        if let Decision::Proceed { reply, .. } = &mut self.decision {
            *reply = Some(Box::new(make_reply));
        }
        self
    }

    /// Take a snapshot of the state after the events, once they are stored.
    pub fn then_snapshot(mut self) -> Self {
        self.then_snapshot = true;
        self
    }

    /// Leave memory once the events are stored and everything accepted before
    /// is answered. The next command brings the entity back.
    pub fn then_stop(mut self) -> Self {
        self.then_stop = true;
        self
    }

    /// The events it would store: for tests of handlers.
    #[must_use]
    pub fn events(&self) -> &[E::Event] {
        match &self.decision {
            Decision::Proceed { events, .. } => match events {
                Events::None => &[],
                Events::One(event) => std::slice::from_ref(event),
                Events::Many(events) => events,
            },
            Decision::Reject { .. } | Decision::Unhandled => &[],
        }
    }

    /// The reason it refuses the command with, if it does: for tests of handlers.
    #[must_use]
    pub fn rejection(&self) -> Option<&str> {
        match &self.decision {
            Decision::Reject { reason, .. } => Some(reason),
            Decision::Proceed { .. } | Decision::Unhandled => None,
        }
    }

    /// The reply it makes of the state after its events, if it makes one: for
    /// tests of handlers.
    #[must_use]
    pub fn into_reply(self, state: &E::State) -> Option<E::Reply> {
        match self.decision {
            Decision::Proceed { reply, .. } => reply.map(|make_reply| make_reply(state)),
            Decision::Reject { .. } | Decision::Unhandled => None,
        }
    }
}
