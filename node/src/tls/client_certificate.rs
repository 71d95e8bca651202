//! Who a client is by the certificate it has shown.
//!
//! A request whose connection has shown a certificate that was verified has a
//! [`ClientCertificate`] in its extensions; any other request has none. What the
//! names in it are worth to whom is not decided here.

use std::sync::Arc;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The certificate of a client, verified: signed by the authority of
/// `node.tls.client_ca`, in its time, and made out for clients. Cheap to clone.
///
/// Only the port makes one, so its being there is the proof.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientCertificate(Arc<Names>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Names {
    subject: String,
    common_name: Option<String>,
    san_dns: Vec<String>,
    san_uri: Vec<String>,
}

impl ClientCertificate {
    /// Of a certificate that rustls has verified; `None` if it is none that names can
    /// be read from.
    pub(crate) fn of_verified(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let common_name = subject.iter_common_name().next();
        let mut names = Names {
            subject: subject.to_string(),
            common_name: common_name.and_then(|name| name.as_str().ok().map(str::to_owned)),
            san_dns: Vec::new(),
            san_uri: Vec::new(),
        };
        if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
            for name in &alternative.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.san_dns.push((*name).to_owned()),
                    GeneralName::URI(uri) => names.san_uri.push((*uri).to_owned()),
                    _ => {}
                }
            }
        }
        Some(Self(Arc::new(names)))
    }

    /// The whole subject, as `O=Acme, CN=billing`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// The common name of the subject, as `billing`.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.0.common_name.as_deref()
    }

    /// Alternative names that are DNS names, as they stand there.
    #[must_use]
    pub fn san_dns(&self) -> &[String] {
        &self.0.san_dns
    }

    /// Alternative names that are URIs, such as `spiffe://shop/billing`.
    #[must_use]
    pub fn san_uri(&self) -> &[String] {
        &self.0.san_uri
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn the_names_of_a_certificate_are_read() {
        let mut params = CertificateParams::new(["billing.shop".to_owned()]).unwrap();
        let uri = "spiffe://shop/billing".try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Acme");
        params
            .distinguished_name
            .push(DnType::CommonName, "billing");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = ClientCertificate::of_verified(certificate.der()).unwrap();
        assert_eq!(read.common_name(), Some("billing"));
        assert!(read.subject().contains("O=Acme"), "{}", read.subject());
        assert_eq!(read.san_dns(), ["billing.shop"]);
        assert_eq!(read.san_uri(), ["spiffe://shop/billing"]);
        assert_eq!(ClientCertificate::of_verified(b"nonsense"), None);
    }
}
