//! A certificate authority for tests, and certificates in a folder that is replaced
//! the way Kubernetes does it.

use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};
use tempfile::TempDir;

/// So that no two have the same name: who meets a stranger should not take it for a
/// friend with another key.
static AUTHORITIES: AtomicU32 = AtomicU32::new(1);

/// Signs certificates.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// When a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Now.
    Good,
    /// Until the year 2001.
    Expired,
}

/// `tls.crt`, `tls.key` and `ca.crt`, behind a link that can be turned.
pub struct Mounted {
    folder: TempDir,
    versions: u32,
}

impl Authority {
    /// A new one, which nobody trusts yet.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let nr = AUTHORITIES.fetch_add(1, Ordering::Relaxed);
        params
            .distinguished_name
            .push(DnType::CommonName, format!("authority {nr} of tests"));
        Ok(Self {
            pem: params.self_signed(&key)?.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Its own certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Certificate and key of somebody on this machine, for servers and for clients.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn sign(&self, name: &str, lifetime: Lifetime) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(["localhost".to_owned()])?;
        let here = (1..16).map(|last| SanType::IpAddress(IpAddr::from([127, 0, 0, last])));
        params.subject_alt_names.extend(here);
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if lifetime == Lifetime::Expired {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// A folder with a certificate of this authority, which it trusts.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mounted(&self, name: &str) -> Result<Mounted> {
        let mut mounted = Mounted {
            folder: TempDir::with_prefix("perennial-tls-")?,
            versions: 0,
        };
        let (certificate, key) = self.sign(name, Lifetime::Good)?;
        mounted.replace(&certificate, &key, &self.pem)?;
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(Path::new("..data").join(file), mounted.path(file))?;
        }
        Ok(mounted)
    }
}

impl Mounted {
    /// Where one of the files is.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// As [`Mounted::path`], as a text.
    #[must_use]
    pub fn text(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }

    /// Replaces all files at once: a new folder, and the link turned to it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&mut self, certificate: &str, key: &str, ca: &str) -> Result<()> {
        self.versions += 1;
        let version = format!("..version-{}", self.versions);
        let folder = self.folder.path().join(&version);
        std::fs::create_dir(&folder)?;
        for (file, text) in [("tls.crt", certificate), ("tls.key", key), ("ca.crt", ca)] {
            std::fs::write(folder.join(file), text)?;
        }
        let next = self.folder.path().join("..next");
        symlink(version, &next)?;
        std::fs::rename(next, self.folder.path().join("..data"))?;
        Ok(())
    }
}
