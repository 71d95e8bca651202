//! The file with the issuer's public keys, read again when its contents change.
//!
//! It is looked at by its contents and not by its time: Kubernetes replaces a mounted
//! file by moving a link. A file that cannot be used changes nothing: the keys before it
//! stay, because shutting everybody out is the worse mistake. What becomes of what was
//! read is decided by [`JwksFile::judge`], which reads nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use tokio::io::AsyncReadExt;

use super::access::TokenAccess;
use super::key_set::{KeySet, KeySetError, SET_LEN_MAX};

/// By result.
const JWKS_RELOADS: &str = "perennial_jwks_reloads_total";
/// Those that can be used.
const JWKS_KEYS: &str = "perennial_jwks_keys";

/// How often the file is looked at: the longest time until a new key is taken.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum JwksFileError {
    /// The file cannot be read.
    #[error("the keys in {} (node.auth.jwt.jwks_file) cannot be read: check the path and its permissions", .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds no usable keys.
    #[error("the keys in {} (node.auth.jwt.jwks_file) cannot be used", .path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: KeySetError,
    },
}

/// A file with keys, and what it last held.
pub struct JwksFile {
    path: PathBuf,
    /// What the keys in use were read from.
    used: Vec<u8>,
    /// What was last said about a file that cannot be used; it is said once.
    said: Option<String>,
}

/// What is to be done about what was read.
#[derive(Debug)]
enum Judged {
    /// It is what it was.
    Unchanged,
    /// Other keys.
    Changed(KeySet),
    /// It cannot be used, and nobody was told.
    Unusable(JwksFileError),
    /// It still cannot be used.
    StillUnusable,
}

impl JwksFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`JwksFileError`].
    pub async fn open(path: &Path) -> Result<(Self, KeySet), JwksFileError> {
        let used = read(path).await?;
        let keys = parse(path, &used)?;
        note(&keys);
        let file = Self {
            path: path.to_owned(),
            used,
            said: None,
        };
        Ok((file, keys))
    }

    /// Looks at the file from time to time and gives new keys to `tokens`. Runs until it
    /// is dropped, which may be at any time.
    pub(crate) async fn follow(mut self, tokens: Arc<TokenAccess>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let found = read(&self.path).await;
            match self.judge(found) {
                Judged::Unchanged | Judged::StillUnusable => {}
                Judged::Changed(keys) => {
                    tracing::info!(path = %self.path.display(), keys = keys.usable(), "the keys of tokens were replaced");
                    counter!(JWKS_RELOADS, "result" => "replaced").increment(1);
                    note(&keys);
                    tokens.replace_keys(keys);
                }
                Judged::Unusable(error) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, why, "the keys of tokens stay as they were");
                    counter!(JWKS_RELOADS, "result" => "failed").increment(1);
                }
            }
        }
    }

    fn judge(&mut self, found: Result<Vec<u8>, JwksFileError>) -> Judged {
        let parsed = match found {
            Ok(bytes) if bytes == self.used => {
                self.said = None;
                return Judged::Unchanged;
            }
            Ok(bytes) => parse(&self.path, &bytes).map(|keys| (bytes, keys)),
            Err(error) => Err(error),
        };
        match parsed {
            Ok((bytes, keys)) => {
                (self.used, self.said) = (bytes, None);
                Judged::Changed(keys)
            }
            Err(error) => {
                let said = format!("{error}: {:?}", std::error::Error::source(&error));
                if self.said.as_ref() == Some(&said) {
                    return Judged::StillUnusable;
                }
                self.said = Some(said);
                Judged::Unusable(error)
            }
        }
    }
}

fn note(keys: &KeySet) {
    gauge!(JWKS_KEYS).set(keys.usable() as f64);
    for key in keys.left_out() {
        tracing::warn!(key, "a key for tokens is not used");
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<KeySet, JwksFileError> {
    KeySet::parse(bytes).map_err(|source| JwksFileError::Unusable {
        path: path.to_owned(),
        source,
    })
}

/// At most one byte more than is allowed, so that a longer file is found out.
async fn read(path: &Path) -> Result<Vec<u8>, JwksFileError> {
    let read = async {
        let file = tokio::fs::File::open(path).await?;
        let mut bytes = Vec::new();
        file.take(SET_LEN_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .await?;
        Ok(bytes)
    };
    read.await.map_err(|source| JwksFileError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::auth::token::token_test::ED25519_SET;

    fn io_error() -> JwksFileError {
        JwksFileError::Unreadable {
            path: "jwks.json".into(),
            source: std::io::ErrorKind::NotFound.into(),
        }
    }

    /// The keys in use stay through whatever happens to the file, each trouble is told
    /// once, and what comes back is no change.
    #[test]
    fn only_other_good_keys_are_a_change() {
        let mut file = JwksFile {
            path: "jwks.json".into(),
            used: b"used".to_vec(),
            said: None,
        };
        assert!(matches!(
            file.judge(Ok(b"used".to_vec())),
            Judged::Unchanged
        ));
        assert!(matches!(file.judge(Err(io_error())), Judged::Unusable(_)));
        assert!(matches!(file.judge(Err(io_error())), Judged::StillUnusable));
        for cut in [&b""[..], b"{", br#"{"keys":[]}"#] {
            assert!(
                matches!(file.judge(Ok(cut.to_vec())), Judged::Unusable(_)),
                "{cut:?}"
            );
            assert!(matches!(
                file.judge(Ok(cut.to_vec())),
                Judged::StillUnusable
            ));
        }
        assert!(matches!(
            file.judge(Ok(b"used".to_vec())),
            Judged::Unchanged
        ));
        assert!(
            matches!(file.judge(Err(io_error())), Judged::Unusable(_)),
            "told anew"
        );
        let Judged::Changed(keys) = file.judge(Ok(ED25519_SET.into())) else {
            panic!("new keys are a change");
        };
        assert_eq!(keys.usable(), 1);
        assert!(matches!(
            file.judge(Ok(ED25519_SET.into())),
            Judged::Unchanged
        ));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks.json");
        let missing = JwksFile::open(&path).await.err().unwrap();
        assert!(missing.to_string().contains("jwks.json"), "{missing}");
        std::fs::write(&path, vec![b' '; SET_LEN_MAX + 1]).unwrap();
        let long = JwksFile::open(&path).await.err().unwrap();
        assert!(
            matches!(
                long,
                JwksFileError::Unusable {
                    source: KeySetError::TooLong,
                    ..
                }
            ),
            "{long}"
        );
    }
}
