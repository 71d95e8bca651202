//! Certificates, for the ports for clients and for the port for other nodes.

use std::path::PathBuf;

use super::Key;
use super::value::choice;
use crate::tls::TlsError;
use crate::tls::credentials::ClientAuth;
use crate::tls::files::{PemFile, TlsFiles};

/// Files in PEM, by what is in them; empty where there are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Of the ports for clients.
    clients: Files,
    client_auth: ClientAuth,
    /// Of the port for other nodes.
    peers: Files,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Files {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
}

/// The names of the settings of one identity.
struct Names {
    certificate: &'static str,
    key: &'static str,
    ca: &'static str,
}

const CLIENTS: Names = Names {
    certificate: "node.tls.certificate",
    key: "node.tls.key",
    ca: "node.tls.client_ca",
};

const PEERS: Names = Names {
    certificate: "node.peer_tls.certificate",
    key: "node.peer_tls.key",
    ca: "node.peer_tls.ca",
};

impl TlsSettings {
    /// Filled by the defaults.
    pub(super) const UNSET: Self = Self {
        clients: Files {
            certificate: None,
            key: None,
            ca: None,
        },
        client_auth: ClientAuth::Required,
        peers: Files {
            certificate: None,
            key: None,
            ca: None,
        },
    };

    /// What the ports for clients show, if they use TLS.
    ///
    /// # Errors
    /// [`TlsError::Incomplete`].
    pub(crate) fn of_clients(&self) -> Result<Option<(TlsFiles, ClientAuth)>, TlsError> {
        let files = self.clients.complete(&CLIENTS)?;
        Ok(files.map(|files| (files, self.client_auth)))
    }

    /// What nodes show each other, if they use TLS: always on both sides.
    ///
    /// # Errors
    /// [`TlsError::Incomplete`].
    pub(crate) fn of_peers(&self) -> Result<Option<TlsFiles>, TlsError> {
        match self.peers.complete(&PEERS)? {
            Some(files) if files.ca.is_none() => Err(TlsError::Incomplete {
                given: PEERS.certificate,
                missing: PEERS.ca,
            }),
            files => Ok(files),
        }
    }
}

impl Files {
    fn complete(&self, names: &Names) -> Result<Option<TlsFiles>, TlsError> {
        let file = |setting, path: &PathBuf| PemFile {
            setting,
            path: path.clone(),
        };
        let incomplete = |given, missing| Err(TlsError::Incomplete { given, missing });
        match (&self.certificate, &self.key, &self.ca) {
            (Some(certificate), Some(key), ca) => Ok(Some(TlsFiles {
                certificate: file(names.certificate, certificate),
                key: file(names.key, key),
                ca: ca.as_ref().map(|ca| file(names.ca, ca)),
            })),
            (Some(_), None, _) => incomplete(names.certificate, names.key),
            (None, Some(_), _) => incomplete(names.key, names.certificate),
            (None, None, Some(_)) => incomplete(names.ca, names.certificate),
            (None, None, None) => Ok(None),
        }
    }
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

/// The keys, as documented.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: CLIENTS.certificate,
        default: "",
        doc: "A PEM file with the certificate that clients see, and those between it and its \
              authority. Empty means no TLS for clients. All files of these two sections are read \
              again when they change; connections stay.",
        set: |settings, text| {
            settings.tls.clients.certificate = path(text);
            Ok(())
        },
    },
    Key {
        name: CLIENTS.key,
        default: "",
        doc: "A PEM file with the key of that certificate, without a password.",
        set: |settings, text| {
            settings.tls.clients.key = path(text);
            Ok(())
        },
    },
    Key {
        name: CLIENTS.ca,
        default: "",
        doc: "A PEM file with the authorities that sign certificates of clients. Empty means that \
              clients are not asked for one.",
        set: |settings, text| {
            settings.tls.clients.ca = path(text);
            Ok(())
        },
    },
    Key {
        name: "node.tls.client_auth",
        default: "required",
        doc: "With client_ca: \"required\" refuses clients without a certificate, \"optional\" lets \
              them in, for those that prove who they are by a token. One that is shown and was not \
              signed by client_ca is refused in both cases.",
        set: |settings, text| {
            let words = [
                ("required", ClientAuth::Required),
                ("optional", ClientAuth::Optional),
            ];
            settings.tls.client_auth = choice(text, &words)?;
            Ok(())
        },
    },
    Key {
        name: PEERS.certificate,
        default: "",
        doc: "A PEM file with the certificate that nodes show each other, made out for servers and \
              for clients, and for the name under which others reach this node. Empty means no TLS \
              between nodes; all nodes of a cluster have it, or none.",
        set: |settings, text| {
            settings.tls.peers.certificate = path(text);
            Ok(())
        },
    },
    Key {
        name: PEERS.key,
        default: "",
        doc: "A PEM file with the key of that certificate, without a password.",
        set: |settings, text| {
            settings.tls.peers.key = path(text);
            Ok(())
        },
    },
    Key {
        name: PEERS.ca,
        default: "",
        doc: "A PEM file with the authority that signs the certificates of this cluster's nodes, \
              and of nobody else: whoever has one is a node. To change it, put the old and the new \
              one into the file for a while.",
        set: |settings, text| {
            settings.tls.peers.ca = path(text);
            Ok(())
        },
    },
];
