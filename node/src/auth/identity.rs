//! Who a client is, once that is proven.

use std::time::SystemTime;

use crate::tls::client_certificate::ClientCertificate;

/// Who a client is. Made only of what was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// How that is known, and by which names.
    pub proof: Proof,
    /// When it ends, exclusive, the tolerance for clocks included; `None` for what ends
    /// with its connection.
    pub expires: Option<SystemTime>,
}

/// How it is known who a client is. Names of one kind never stand for names of another:
/// whoever can have a token made out to any subject does not become the owner of a
/// certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// By a token.
    Token {
        /// Claim `sub`.
        subject: String,
        /// The claim that holds groups.
        groups: Vec<String>,
    },
    /// By the certificate of the connection.
    Certificate {
        /// The URIs and DNS names it was made out to, its common name, its whole subject.
        names: Vec<String>,
    },
    /// Not at all: authentication is not configured.
    Anonymous,
}

impl Identity {
    /// Whoever calls where nobody is asked.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            proof: Proof::Anonymous,
            expires: None,
        }
    }

    /// The owner of a certificate that was verified.
    #[must_use]
    pub fn of_client(certificate: &ClientCertificate) -> Self {
        let alternative = certificate.san_uri().iter().chain(certificate.san_dns());
        let names = alternative
            .map(String::as_str)
            .chain(certificate.common_name());
        let names = names.chain([certificate.subject()]);
        Self::of_certificate(names.map(str::to_owned).collect())
    }

    /// The owner of a certificate, by the names in it.
    #[must_use]
    pub fn of_certificate(names: Vec<String>) -> Self {
        Self {
            proof: Proof::Certificate { names },
            expires: None,
        }
    }

    /// The name for people and logs.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.proof {
            Proof::Token { subject, .. } => subject,
            Proof::Certificate { names } => names.first().map_or("(no name)", String::as_str),
            Proof::Anonymous => "anonymous",
        }
    }

    /// How it is known, in a word for logs.
    #[must_use]
    pub fn proven_by(&self) -> &'static str {
        match &self.proof {
            Proof::Token { .. } => "token",
            Proof::Certificate { .. } => "certificate",
            Proof::Anonymous => "nothing",
        }
    }
}
