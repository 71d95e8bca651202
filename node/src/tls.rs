//! Who a port is, and whom it trusts: certificates, keys and authorities.
//!
//! `files` reads PEM files and says what is wrong with them; `credentials`
//! makes of them what rustls needs for each side; `reload` notices that files
//! have changed and swaps what new handshakes use, while connections stay.
//! [`client_certificate`] is what is known of a client that has shown a
//! certificate: services find it in the extensions of a request. `connector`
//! makes encrypted connections to others, and `refusal` hears why a server wants none.
//!
//! Nothing here listens, and nothing decides what somebody may do: that is
//! `connections.rs` for the one, and the services for the other.

pub mod client_certificate;
pub(crate) mod connector;
pub(crate) mod credentials;
pub(crate) mod files;
pub(crate) mod refusal;
pub(crate) mod reload;

pub use self::files::TlsError;
