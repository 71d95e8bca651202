//! The `authorization` header.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::error::AuthError;

/// The token of `authorization: Bearer …`, if there is such a header.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, AuthError> {
    let Some((scheme, credentials)) = authorization(headers)? else {
        return Ok(None);
    };
    if !scheme.eq_ignore_ascii_case("bearer") || credentials.is_empty() {
        return Err(AuthError::Malformed("the header's scheme is not Bearer"));
    }
    Ok(Some(credentials))
}

/// The token as the password of `authorization: Basic …`, which browsers ask people for;
/// the user name is not looked at.
pub(super) fn basic(headers: &HeaderMap) -> Option<String> {
    let (scheme, credentials) = authorization(headers).ok()??;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(credentials).ok()?).ok()?;
    let (_, password) = decoded.split_once(':')?;
    Some(password.to_owned())
}

fn authorization(headers: &HeaderMap) -> Result<Option<(&str, &str)>, AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(AuthError::Malformed(
            "there are several authorization headers",
        ));
    }
    let text = value.to_str();
    let text = text.map_err(|_| AuthError::Malformed("the header is not of ASCII"))?;
    let (scheme, credentials) = text.trim().split_once(' ').unwrap_or((text, ""));
    Ok(Some((scheme, credentials.trim())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let pairs = values
            .iter()
            .map(|value| (AUTHORIZATION, value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn the_scheme_is_read_in_any_case() {
        assert_eq!(bearer(&headers(&[])), Ok(None));
        for text in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(bearer(&headers(&[text])), Ok(Some("abc")), "{text}");
        }
        for wrong in ["abc", "Bearer", "Bearer ", "Basic OmFiYw==", ""] {
            assert!(bearer(&headers(&[wrong])).is_err(), "{wrong:?}");
        }
        let twice = headers(&["Bearer abc", "Bearer abd"]);
        assert!(matches!(bearer(&twice), Err(AuthError::Malformed(_))));
    }

    #[test]
    fn a_browser_sends_the_token_as_a_password() {
        // ":abc" and "ada:a:b"
        assert_eq!(basic(&headers(&["Basic OmFiYw=="])).as_deref(), Some("abc"));
        assert_eq!(
            basic(&headers(&["basic YWRhOmE6Yg=="])).as_deref(),
            Some("a:b")
        );
        for other in ["Bearer abc", "Basic abc", "Basic ", "Basic YWJj"] {
            assert_eq!(basic(&headers(&[other])), None, "{other}");
        }
    }
}
