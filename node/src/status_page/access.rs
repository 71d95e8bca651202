//! Who may see the status page: it shows entities' data, so it goes only where nobody
//! listens in, and to nobody's scripts but its own.
//!
//! A decision about plain values; `status_page.rs` asks for it with every request. What
//! counts as protected is the port's to say: `connections/protection.rs`.

use std::net::IpAddr;

use crate::connections::protection::{Protection, Shows, may_be_shown};

/// Who asks, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visitor<'a> {
    /// Whether others can listen in.
    pub(super) protection: Protection,
    /// Whom the browser thinks it talks to.
    pub(super) host: Option<&'a str>,
}

/// Why somebody may not see the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Over the network, in plain text.
    #[error(
        "The status page shows what entities hold, so it is not shown over the network in plain \
         text. Give the node a certificate (node.tls.certificate), or look from its own machine, or \
         through a tunnel to it (ssh -L, kubectl port-forward)."
    )]
    PlainText,
    /// A page from elsewhere that made the browser look here under its own name.
    #[error(
        "In plain text the status page is for localhost, and the browser asked for another name. \
         Open it as http://localhost or http://127.0.0.1."
    )]
    ForeignName,
}

/// Whether the page and the inspector are shown.
pub(super) fn may_see(visitor: &Visitor<'_>) -> Result<(), Refused> {
    if !may_be_shown(Shows::Data, visitor.protection) {
        return Err(Refused::PlainText);
    }
    // A certificate names its node; a name that leads to this machine proves nothing.
    let is_named = visitor.protection == Protection::Tls || visitor.host.is_some_and(is_local_name);
    if !is_named {
        return Err(Refused::ForeignName);
    }
    Ok(())
}

/// Names that mean this machine, whatever a name server says.
fn is_local_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_loopback = |address: IpAddr| address.is_loopback();
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(protection: Protection, host: &str) -> Result<(), Refused> {
        may_see(&Visitor {
            protection,
            host: Some(host),
        })
    }

    #[test]
    fn it_is_shown_on_this_machine_or_encrypted() {
        for host in [
            "localhost:7401",
            "LOCALHOST",
            "127.0.0.1:7401",
            "127.0.0.2",
            "[::1]:7401",
            "[::1]",
        ] {
            assert_eq!(see(Protection::ThisMachine, host), Ok(()), "{host}");
            assert_eq!(
                see(Protection::Open, host),
                Err(Refused::PlainText),
                "{host}"
            );
        }
        assert_eq!(see(Protection::Tls, "node-1.example"), Ok(()));
    }

    /// A name of somebody's domain that leads to 127.0.0.1 must not open the page to
    /// the scripts of that domain.
    #[test]
    fn it_is_not_shown_under_a_foreign_name() {
        for host in [
            "evil.example",
            "localhost.evil.example:7401",
            "127.0.0.1.evil.example",
            "",
            "[",
            "10.0.0.1",
        ] {
            let seen = see(Protection::ThisMachine, host);
            assert_eq!(seen, Err(Refused::ForeignName), "{host}");
        }
        let silent = Visitor {
            protection: Protection::ThisMachine,
            host: None,
        };
        assert_eq!(may_see(&silent), Err(Refused::ForeignName));
    }
}
