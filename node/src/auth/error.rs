//! Why it is not known who a client is.

/// Why a client's token, or its lack of one, is refused. The messages tell the client
/// what to do, and nothing about whom this service knows; none holds the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Neither a token nor a certificate.
    #[error(
        "this service must know who calls: send a token as `authorization: Bearer …`, or connect with a client certificate if it asks for one"
    )]
    Missing,
    /// A token, and no keys to check it with.
    #[error(
        "this service takes no tokens: connect with a client certificate, and leave the authorization header out"
    )]
    TokensNotTaken,
    /// Not a signed token in its compact form, or not one made for this use.
    #[error("the token cannot be read, {0}: send one JSON Web Token as `authorization: Bearer …`")]
    Malformed(&'static str),
    /// Too long to be looked at.
    #[error("the token has {len} bytes, {len_max} are allowed: ask for one with fewer claims")]
    TooLong {
        /// Of the token.
        len: usize,
        /// The limit, inclusive.
        len_max: usize,
    },
    /// An algorithm that is never accepted, as `none` and those with a shared secret, or
    /// not that of the key.
    #[error(
        "the token is signed with an algorithm that is not accepted for its key: its issuer must sign with RS, PS, ES or EdDSA as its published key says"
    )]
    Algorithm,
    /// No key of this name.
    #[error(
        "the token is signed with a key this service does not know: ask for a new token; if that does not help, the issuer's keys must be brought to this service"
    )]
    KeyUnknown,
    /// The signature does not fit.
    #[error("the token's signature is wrong: ask for a new token")]
    Signature,
    /// Made by somebody else.
    #[error("the token is of another issuer: ask the issuer this service is configured with")]
    Issuer,
    /// Made for somebody else.
    #[error("the token is for another audience: ask for one that is made out to this service")]
    Audience,
    /// A claim is missing or not what it should be.
    #[error("the token's claim {0:?} is missing or malformed: its issuer must set it")]
    Claim(&'static str),
    /// Its time is over.
    #[error("the token has expired: ask for a new one")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet: check the clocks of its issuer and of this service")]
    NotYetValid,
}

impl AuthError {
    /// A word for programs and metrics.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TokensNotTaken => "tokens_not_taken",
            Self::Malformed(_) => "malformed",
            Self::TooLong { .. } => "too_long",
            Self::Algorithm => "algorithm",
            Self::KeyUnknown => "key_unknown",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claim(_) => "claim",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
        }
    }
}
