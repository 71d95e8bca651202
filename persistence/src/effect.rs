//! What a command handler of an [`EventSourced`] entity decides.
//!
//! An [`Effect`] is a value: making one does nothing. The engine stores the
//! events, applies them, and only after the commit lets the reply out
//! (promise I-4) and does the rest that was asked for, in this order: what
//! [`Effect::then_run`] gave, in the order given; then the reply; then
//! [`Effect::then_unstash_all`] and [`Effect::then_run_outside`]; then
//! [`Effect::then_stop`]. None of it happens when the events are not stored, and
//! none of it at a replay. All of it, except for a reply, also follows a rejection;
//! nothing follows [`Effect::stash`] and [`Effect::run_outside`], whose commands are
//! decided on later.
//! Next: `event_sourced/behavior.rs`, which carries effects out.

use futures::future::BoxFuture;

use crate::event_sourced::EventSourced;
use crate::persisting::Commands;

/// What a command handler decides. Build one with [`Effect::persist`],
/// [`Effect::persist_all`], [`Effect::none`], [`Effect::reply`],
/// [`Effect::reject`], [`Effect::unhandled`], [`Effect::stash`],
/// [`Effect::unstash_all`] or [`Effect::run_outside`], then chain what follows.
#[must_use = "an effect does nothing unless the handler returns it"]
pub struct Effect<E: EventSourced> {
    pub(crate) decision: Decision<E>,
    pub(crate) then: Then<E>,
}

/// What follows when the events are stored.
pub(crate) struct Then<E: EventSourced> {
    pub(crate) snapshot: bool,
    pub(crate) stop: bool,
    pub(crate) unstash_all: bool,
    pub(crate) run: Vec<RunWith<E>>,
    pub(crate) outside: Vec<Outside<E>>,
}

/// Work that runs outside of the entity and comes back with a command.
pub(crate) struct Outside<E: EventSourced> {
    pub(crate) start: StartWith<E>,
    /// What the entity's other commands do meanwhile.
    pub(crate) commands: Commands,
}

pub(crate) type RunWith<E> = Box<dyn FnOnce(&<E as EventSourced>::State) + Send>;

pub(crate) type StartWith<E> = Box<
    dyn FnOnce(&<E as EventSourced>::State) -> BoxFuture<'static, <E as EventSourced>::Command>
        + Send,
>;

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
    Stash,
    /// The answer is that to the command the work comes back with.
    RunOutside(Outside<E>),
}

impl<E: EventSourced> Default for Then<E> {
    fn default() -> Self {
        Self {
            snapshot: false,
            stop: false,
            unstash_all: false,
            run: Vec::new(),
            outside: Vec::new(),
        }
    }
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
    fn new(decision: Decision<E>) -> Self {
        Self {
            decision,
            then: Then::default(),
        }
    }

    fn proceed(events: Events<E::Event>) -> Self {
        Self::new(Decision::Proceed {
            events,
            reply: None,
        })
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
        Self::new(Decision::Reject {
            reason: reason.into(),
            message: message.into(),
        })
    }

    /// This entity does not handle this command, or not in this state.
    pub fn unhandled() -> Self {
        Self::new(Decision::Unhandled)
    }

    /// Put the command aside, unanswered, until an [`Effect::then_unstash_all`]
    /// brings it back. It keeps its deadline. What waits and what is put aside may be
    /// `persistence.stash_capacity` commands together; what becomes of a further one is
    /// said by `persistence.stash_overflow`.
    ///
    /// An entity that has put commands aside stays in memory. If it has to leave
    /// all the same, or starts over after a failure of the journal, they are
    /// handled again by its next incarnation.
    pub fn stash() -> Self {
        Self::new(Decision::Stash)
    }

    /// Store nothing and bring back what was put aside.
    pub fn unstash_all() -> Self {
        Self::none().then_unstash_all()
    }

    /// Run this outside of the entity, such as a call to another service, and go on
    /// with the command it comes back with. The answer to that command is given to
    /// the sender of this one, and its events are stored under this one's command
    /// id. Nothing can be chained to it but [`Effect::while_commands_wait`].
    ///
    /// It starts when everything is stored that this decision was computed from.
    /// Other commands are handled meanwhile. A client's retry may start it again, so
    /// what is called should recognise a repetition. When the node stops before it
    /// comes back, the sender gets an error, and nothing is stored; the work is dropped
    /// where it stands.
    pub fn run_outside(work: impl Future<Output = E::Command> + Send + 'static) -> Self {
        Self::new(Decision::RunOutside(Outside {
            start: Box::new(move |_| Box::pin(work)),
            commands: Commands::GoOn,
        }))
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

    /// Take a snapshot of the state after the events, once they are stored. Without
    /// events it is one of the present state, if that has a past.
    pub fn then_snapshot(mut self) -> Self {
        self.then.snapshot = true;
        self
    }

    /// Once the events are stored, run this on the state after them: a side effect,
    /// at most once, never at a replay. It must not block. If it panics the sender
    /// is told so, the events stay, and the entity starts over.
    pub fn then_run(mut self, run: impl FnOnce(&E::State) + Send + 'static) -> Self {
        self.then.run.push(Box::new(run));
        self
    }

    /// Once the events are stored, bring back what was put aside with
    /// [`Effect::stash`], in its order, before anything that came since.
    pub fn then_unstash_all(mut self) -> Self {
        self.then.unstash_all = true;
        self
    }

    /// Once the events are stored, and the reply is given, start this outside of the
    /// entity. The command it comes back with is handled like any other; nobody waits
    /// for the answer to it. If the entity starts over meanwhile, or is deleted, the work
    /// is dropped where it stands and lost: what must not be lost is begun again by
    /// [`EventSourced::after_recovery`]. May be chained several times.
    pub fn then_run_outside<F>(
        mut self,
        start: impl FnOnce(&E::State) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = E::Command> + Send + 'static,
    {
        self.then.outside.push(Outside {
            start: Box::new(move |state| Box::pin(start(state))),
            commands: Commands::GoOn,
        });
        self
    }

    /// The entity's other commands wait until the work outside, given before, has
    /// come back and the command it came back with was handled.
    pub fn while_commands_wait(mut self) -> Self {
        let outside = match &mut self.decision {
            Decision::RunOutside(outside) => Some(outside),
            _ => self.then.outside.last_mut(),
        };
        if let Some(outside) = outside {
            outside.commands = Commands::Wait;
        }
        self
    }

    /// Leave memory once the events are stored and everything accepted before
    /// is answered. The next command brings the entity back.
    pub fn then_stop(mut self) -> Self {
        self.then.stop = true;
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
            _ => &[],
        }
    }

    /// The reason it refuses the command with, if it does: for tests of handlers.
    #[must_use]
    pub fn rejection(&self) -> Option<&str> {
        match &self.decision {
            Decision::Reject { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// The reply it makes of the state after its events, if it makes one: for
    /// tests of handlers.
    #[must_use]
    pub fn into_reply(self, state: &E::State) -> Option<E::Reply> {
        match self.decision {
            Decision::Proceed { reply, .. } => reply.map(|make_reply| make_reply(state)),
            _ => None,
        }
    }
}
