//! The name of an entity: what kind of thing it is, and which one.
//!
//! Parsed once where it enters the system; afterwards a [`PersistenceId`] is
//! known to be good and cheap to clone. This module knows nothing of shards:
//! where an entity lives is decided by the `sharding` crate. Next: `command.rs`,
//! what is sent to an entity.

use std::fmt;
use std::sync::Arc;

/// Longest entity type, in bytes.
pub const ENTITY_TYPE_LEN_MAX: usize = 64;
/// Longest entity id, in bytes of UTF-8.
pub const ENTITY_ID_LEN_MAX: usize = 255;

/// `entity_type|entity_id`: the key of one stream of events.
///
/// A type is 1 to 64 of `a-z0-9_-`. An id is 1 to 255 bytes of UTF-8 without
/// control characters and without `|`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PersistenceId {
    text: Arc<str>,
    entity_type_len: u8,
}

/// Why a text is not a [`PersistenceId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPersistenceId {
    /// The type is empty, too long, or has a character outside `a-z0-9_-`.
    #[error(
        "entity type {entity_type:?} is invalid: use 1 to 64 of the characters a-z, 0-9, '_' and '-'"
    )]
    EntityType {
        /// What was given, cut to a printable length.
        entity_type: String,
    },
    /// The id is empty.
    #[error("the entity id is empty: use 1 to 255 bytes of UTF-8")]
    EmptyEntityId,
    /// The id is longer than [`ENTITY_ID_LEN_MAX`].
    #[error("the entity id has {len} bytes: use at most 255")]
    EntityIdTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The id has a control character or the separator `|`.
    #[error(
        "the entity id contains {character:?}, which is not allowed: leave out control characters and '|'"
    )]
    EntityIdCharacter {
        /// The first such character.
        character: char,
    },
    /// A stored persistence id without the separator.
    #[error("{text:?} is not a persistence id: expected \"entity_type|entity_id\"")]
    Separator {
        /// What was given, cut to a printable length.
        text: String,
    },
}

impl PersistenceId {
    /// Joins a type and an id.
    ///
    /// # Errors
    /// [`InvalidPersistenceId`] names the part that is wrong and what is allowed.
    pub fn new(entity_type: &str, entity_id: &str) -> Result<Self, InvalidPersistenceId> {
        check_entity_type(entity_type)?;
        check_entity_id(entity_id)?;
        let mut text = String::with_capacity(entity_type.len() + 1 + entity_id.len());
        text.push_str(entity_type);
        text.push('|');
        text.push_str(entity_id);
        Ok(Self {
            text: text.into(),
            // At most 64, checked above.
            entity_type_len: entity_type.len() as u8,
        })
    }

    /// Parses the stored form.
    ///
    /// # Errors
    /// As [`PersistenceId::new`], or [`InvalidPersistenceId::Separator`].
    pub fn parse(text: &str) -> Result<Self, InvalidPersistenceId> {
        let Some((entity_type, entity_id)) = text.split_once('|') else {
            return Err(InvalidPersistenceId::Separator { text: cut(text) });
        };
        Self::new(entity_type, entity_id)
    }

    /// The part before the separator.
    #[must_use]
    pub fn entity_type(&self) -> &str {
        &self.text[..usize::from(self.entity_type_len)]
    }

    /// The part after the separator.
    #[must_use]
    pub fn entity_id(&self) -> &str {
        &self.text[usize::from(self.entity_type_len) + 1..]
    }

    /// The stored form, `entity_type|entity_id`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Checks an entity type by itself, as when one is registered or listed.
///
/// # Errors
/// [`InvalidPersistenceId::EntityType`].
pub fn check_entity_type(entity_type: &str) -> Result<(), InvalidPersistenceId> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if entity_type.is_empty()
        || entity_type.len() > ENTITY_TYPE_LEN_MAX
        || !entity_type.bytes().all(allowed)
    {
        return Err(InvalidPersistenceId::EntityType {
            entity_type: cut(entity_type),
        });
    }
    Ok(())
}

fn check_entity_id(entity_id: &str) -> Result<(), InvalidPersistenceId> {
    if entity_id.is_empty() {
        return Err(InvalidPersistenceId::EmptyEntityId);
    }
    if entity_id.len() > ENTITY_ID_LEN_MAX {
        return Err(InvalidPersistenceId::EntityIdTooLong {
            len: entity_id.len(),
        });
    }
    match entity_id.chars().find(|&c| c == '|' || c.is_control()) {
        Some(character) => Err(InvalidPersistenceId::EntityIdCharacter { character }),
        None => Ok(()),
    }
}

/// Input from outside may be huge: an error message repeats only its beginning.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

impl fmt::Display for PersistenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for PersistenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn type_and_id_come_back() {
        let id = PersistenceId::new("air-port_1", "São Paulo").unwrap();
        assert_eq!(
            (id.entity_type(), id.entity_id()),
            ("air-port_1", "São Paulo")
        );
        assert_eq!(PersistenceId::parse(id.as_str()).unwrap(), id);
    }

    /// O38: an empty persistence id fails at once; so does each malformed one.
    #[test]
    fn o38_malformed_ids_are_refused() {
        let long = "x".repeat(256);
        for (entity_type, entity_id) in [
            ("", "a"),
            ("Account", "a"),
            ("a b", "a"),
            ("a|b", "a"),
            (&long[..65], "a"),
            ("account", ""),
            ("account", &long),
            ("account", "a|b"),
            ("account", "a\nb"),
            ("account", "a\u{85}b"),
        ] {
            assert!(
                PersistenceId::new(entity_type, entity_id).is_err(),
                "{entity_type:?} {entity_id:?}"
            );
        }
        assert!(PersistenceId::new(&long[..64], &long[..255]).is_ok());
        assert!(PersistenceId::parse("account").is_err());
    }
}
