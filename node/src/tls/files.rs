//! Reads certificates, keys and authorities from PEM files, and names the file and
//! the setting when something is wrong with one.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A file larger than this is no certificate, key or list of authorities.
const FILE_LEN_MAX: u64 = 4 << 20;

/// A file, and the setting or flag that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PemFile {
    pub(crate) setting: &'static str,
    pub(crate) path: PathBuf,
}

/// The files of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PemFile,
    pub(crate) key: PemFile,
    /// Who signs the certificates that the other side has to show.
    pub(crate) ca: Option<PemFile>,
}

/// What the files held when they were read. Compared byte for byte to notice a
/// change; it holds the key, so it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

/// An identity and whom it trusts, before rustls has looked at them.
pub(crate) struct Parsed {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) roots: Option<RootCertStore>,
    /// Seconds since 1970 after which the certificate is refused.
    pub(crate) ends_at: i64,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Of settings that need each other, some are missing.
    #[error("{given} is set and {missing} is not: set both, or none for connections without TLS")]
    Incomplete {
        /// The setting that is there.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {} ({setting}): {source}; check the path and who may read it", .path.display())]
    Unreadable {
        /// The setting or flag.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} ({setting}) {problem}", .path.display())]
    Content {
        /// The setting or flag.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is there, and what should be.
        problem: String,
    },
    /// Certificate and key are not a pair.
    #[error(
        "the certificate {} and the key {} do not fit each other: {problem}; give the key that the certificate \
         was made for",
        .certificate.display(), .key.display()
    )]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        problem: String,
    },
    /// The authorities of this machine cannot be found.
    #[error("this machine has no list of authorities ({problem}): name one with --tls-ca")]
    NoSystemAuthorities {
        /// What was tried.
        problem: String,
    },
}

impl PemFile {
    fn read(&self) -> Result<Vec<u8>, TlsError> {
        let read = || {
            let len = std::fs::metadata(&self.path)?.len();
            if len > FILE_LEN_MAX {
                return Err(io::Error::other(format!("it has {len} bytes")));
            }
            std::fs::read(&self.path)
        };
        read().map_err(|source| TlsError::Unreadable {
            setting: self.setting,
            path: self.path.clone(),
            source,
        })
    }

    fn content(&self, problem: impl Into<String>) -> TlsError {
        TlsError::Content {
            setting: self.setting,
            path: self.path.clone(),
            problem: problem.into(),
        }
    }

    fn certificates(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates =
            certificates.map_err(|error| self.content(format!("is not valid PEM: {error}")))?;
        if certificates.is_empty() {
            let expected = "-----BEGIN CERTIFICATE-----";
            return Err(self.content(format!("holds no certificate: expected {expected}")));
        }
        Ok(certificates)
    }

    fn private_key(&self, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
            let text = String::from_utf8_lossy(pem);
            self.content(if text.contains("ENCRYPTED") {
                "holds a key that is encrypted: store it without a password, readable by this \
                 process alone"
                    .to_owned()
            } else {
                format!("holds no private key: {error}; expected -----BEGIN PRIVATE KEY-----")
            })
        })
    }

    /// The authorities in a file.
    pub(crate) fn roots(&self) -> Result<RootCertStore, TlsError> {
        self.roots_of(&self.read()?)
    }

    fn roots_of(&self, pem: &[u8]) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(pem)? {
            let added = roots.add(certificate);
            added.map_err(|error| self.content(format!("holds no authority: {error}")))?;
        }
        Ok(roots)
    }
}

impl TlsFiles {
    /// What is in the files now.
    pub(crate) fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            certificate: self.certificate.read()?,
            key: self.key.read()?,
            ca: self.ca.as_ref().map(PemFile::read).transpose()?,
        })
    }

    /// Understands what was read.
    pub(crate) fn parse(&self, contents: &Contents) -> Result<Parsed, TlsError> {
        let chain = self.certificate.certificates(&contents.certificate)?;
        let ends_at = match chain.first().map(|first| X509Certificate::from_der(first)) {
            Some(Ok((_, first))) => first.validity().not_after.timestamp(),
            _ => {
                let problem = "holds no certificate of X.509";
                return Err(self.certificate.content(problem));
            }
        };
        let roots = match (&self.ca, &contents.ca) {
            (Some(file), Some(pem)) => Some(file.roots_of(pem)?),
            _ => None,
        };
        Ok(Parsed {
            chain,
            key: self.key.private_key(&contents.key)?,
            roots,
            ends_at,
        })
    }

    /// That rustls does not take certificate and key together.
    pub(crate) fn pair_error(&self, error: &rustls::Error) -> TlsError {
        TlsError::Pair {
            certificate: self.certificate.path.clone(),
            key: self.key.path.clone(),
            problem: error.to_string(),
        }
    }

    /// Warns of a key that every user of the machine can read.
    pub(crate) fn warn_of_open_key(&self) {
        if is_open(&self.key.path) {
            tracing::warn!(
                setting = self.key.setting,
                file = %self.key.path.display(),
                "every user of this machine can read this key: chmod o= it"
            );
        }
    }
}

fn is_open(path: &Path) -> bool {
    // What cannot be looked at fails with a better error when it is read.
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
#[path = "files/files_test.rs"]
#[allow(clippy::unwrap_used)]
pub(crate) mod files_test;
