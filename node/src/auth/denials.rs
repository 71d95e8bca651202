//! Counts who was refused, on whatever port.

use metrics::counter;

use super::caller::Denied;
use super::error::AuthError;

/// By what is wrong with the token, or the right that is missing.
const AUTH_DENIALS: &str = "perennial_auth_denials_total";

/// Somebody who is not known.
pub(crate) fn count_unknown(error: AuthError) {
    counter!(AUTH_DENIALS, "reason" => error.cause()).increment(1);
}

/// Somebody who may not do what it wants.
pub(crate) fn count_denied(denied: &Denied) {
    counter!(AUTH_DENIALS, "reason" => format!("right_{}", denied.right)).increment(1);
}
