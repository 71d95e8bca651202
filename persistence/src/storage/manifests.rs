//! Manifests without a copy for each event.
//!
//! A manifest is the name of a type in some program's code: there are few, and
//! every event read carries one. Those seen are kept for good, so that all events
//! share them. The number kept is bounded, for a journal where somebody made them
//! up one by one; beyond it each event has a copy of its own.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

/// Manifests kept.
const KEPT_MAX: usize = 4096;
/// Bytes of the longest manifest kept.
const LEN_MAX: usize = 256;

static KEPT: RwLock<Option<HashSet<&'static str>>> = RwLock::new(None);

/// The manifest, shared where possible.
pub(crate) fn manifest(text: &str) -> Cow<'static, str> {
    if text.is_empty() {
        return Cow::Borrowed("");
    }
    // A set is whole between any two statements, so usable after a panic.
    let kept = KEPT.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept.as_ref().and_then(|kept| kept.get(text)) {
        return Cow::Borrowed(*known);
    }
    let is_full = kept.as_ref().is_some_and(|kept| kept.len() >= KEPT_MAX);
    drop(kept);
    if is_full || text.len() > LEN_MAX {
        return Cow::Owned(text.to_owned());
    }
    let mut kept = KEPT.write().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    // Another thread may have been here since.
    if let Some(known) = kept.get(text) {
        return Cow::Borrowed(*known);
    }
    let known: &'static str = Box::leak(text.into());
    kept.insert(known);
    Cow::Borrowed(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_shared_up_to_a_limit() {
        assert_eq!(manifest(""), "");
        let first = manifest("deposited");
        assert!(matches!(&first, Cow::Borrowed("deposited")));
        assert_eq!(first.as_ptr(), manifest("deposited").as_ptr());
        let long = "x".repeat(LEN_MAX + 1);
        assert!(matches!(manifest(&long), Cow::Owned(text) if text == long));
        for nr in 0..KEPT_MAX {
            assert_eq!(manifest(&nr.to_string()), nr.to_string());
        }
        assert!(matches!(manifest("one too many"), Cow::Owned(_)));
        assert!(matches!(manifest("deposited"), Cow::Borrowed(_)));
    }
}
