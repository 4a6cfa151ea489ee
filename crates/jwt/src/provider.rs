//! One issuer and what is asked of its tokens.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderName;
use jsonwebtoken::Algorithm;
use serde_json::Value;

use crate::keys::{KeySet, Unsigned};
use crate::location::Location;

/// A token longer than this is no token; heads of requests are hardly larger.
const MAX_TOKEN: usize = 64 << 10;

/// A claim that goes to the application in a header.
#[derive(Clone, Debug)]
pub struct ClaimHeader {
    /// The header.
    pub header: HeaderName,
    /// Names from the payload's root, such as `realm_access`, `roles`.
    pub claim: Vec<String>,
}

/// One issuer and what is asked of its tokens.
#[derive(Clone, Debug)]
pub struct Provider {
    /// `iss` must be this; empty: anything.
    pub issuer: Box<str>,
    /// One of these must be in `aud`; empty: anything.
    pub audiences: Vec<String>,
    /// Keys.
    pub keys: Arc<KeySet>,
    /// Where tokens stand.
    pub locations: Vec<Location>,
    /// Leave the token in the request.
    pub forward: bool,
    /// Header for the payload, as it stood in the token.
    pub payload_header: Option<HeaderName>,
    /// The payload header is padded with `=`.
    pub pad_payload: bool,
    /// Claims that go into headers.
    pub claim_headers: Vec<ClaimHeader>,
    /// Name under which policies find the claims; empty: not at all.
    pub metadata: Box<str>,
    /// Claims that are lists written as one text with spaces.
    pub space_delimited: Vec<String>,
    /// Seconds by which clocks may differ (Envoy's default is 60).
    pub skew: u64,
}

/// Why a token is refused. The words are those that Envoy's users find in answers and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error("Jwt is missing")]
    Missing,
    /// It does not have three parts.
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Form,
    /// The first part cannot be read.
    #[error("Jwt header is an invalid JSON")]
    Header,
    /// Its algorithm is unknown, or `none`.
    #[error("Jwt header [alg] is not supported")]
    Algorithm,
    /// The second part cannot be read.
    #[error("Jwt payload is an invalid JSON")]
    Payload,
    /// Nobody asked for tokens of this issuer.
    #[error("Jwt issuer is not configured")]
    Issuer,
    /// Its time is over.
    #[error("Jwt is expired")]
    Expired,
    /// Its time has not come.
    #[error("Jwt not yet valid")]
    NotYet,
    /// It is meant for others.
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    /// No key fits.
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoKey,
    /// The signature is not the issuer's.
    #[error("Jwt verification fails")]
    Forged,
}

impl Provider {
    /// The claims of a token that holds at a moment, in seconds since 1970.
    ///
    /// # Errors
    /// When it does not hold; nothing of it may be believed then.
    pub fn verify(&self, token: &str, now: u64) -> Result<Value, TokenError> {
        let (head, payload) = sections(token)?;
        let head: Value = read(head).ok_or(TokenError::Header)?;
        let algorithm = head.get("alg").and_then(Value::as_str).ok_or(TokenError::Header)?;
        let algorithm: Algorithm = algorithm.parse().map_err(|_| TokenError::Algorithm)?;
        // RFC 7515, 4.1.11: what is critical and not understood must be refused.
        if head.get("crit").is_some() {
            return Err(TokenError::Header);
        }
        let claims: Value = read(payload).filter(Value::is_object).ok_or(TokenError::Payload)?;
        self.judge(&claims, now)?;
        let id = head.get("kid").and_then(Value::as_str);
        self.keys.check(token, id, algorithm).map_err(|e| match e {
            Unsigned::NoKey => TokenError::NoKey,
            Unsigned::Forged => TokenError::Forged,
        })?;
        Ok(self.normal(claims))
    }

    fn judge(&self, claims: &Value, now: u64) -> Result<(), TokenError> {
        if !self.issuer.is_empty() && claims.get("iss").and_then(Value::as_str) != Some(&*self.issuer) {
            return Err(TokenError::Issuer);
        }
        if let Some(from) = time(claims, "nbf")?
            && from > now.saturating_add(self.skew)
        {
            return Err(TokenError::NotYet);
        }
        if let Some(until) = time(claims, "exp")?
            && until.saturating_add(self.skew) < now
        {
            return Err(TokenError::Expired);
        }
        let meant = |audience: &str| self.audiences.iter().any(|own| same_audience(own, audience));
        let fits = match claims.get("aud") {
            _ if self.audiences.is_empty() => true,
            Some(Value::String(one)) => meant(one),
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).any(meant),
            _ => false,
        };
        if fits { Ok(()) } else { Err(TokenError::Audience) }
    }

    fn normal(&self, mut claims: Value) -> Value {
        for name in &self.space_delimited {
            if let Some(value) = claims.get_mut(name)
                && let Value::String(text) = value
            {
                *value = text.split_ascii_whitespace().map(str::to_owned).collect();
            }
        }
        claims
    }
}

/// The first two of a token's three parts.
pub(crate) fn sections(token: &str) -> Result<(&str, &str), TokenError> {
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(head), Some(payload), Some(_), None) if token.len() <= MAX_TOKEN => Ok((head, payload)),
        _ => Err(TokenError::Form),
    }
}

fn read(section: &str) -> Option<Value> {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(section).ok()?).ok()
}

/// A time must be a number; one before 1970 is long over.
fn time(claims: &Value, name: &str) -> Result<Option<u64>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match (value.as_u64(), value.as_f64()) {
            (Some(seconds), _) => Ok(Some(seconds)),
            // Fractions are cut; what is too large stays as far in the future as can be said.
            (None, Some(seconds)) if seconds.is_finite() => Ok(Some(seconds.max(0.0) as u64)),
            _ => Err(TokenError::Payload),
        },
    }
}

/// Envoy compares audiences without scheme and without a slash at the end.
fn same_audience(a: &str, b: &str) -> bool {
    fn bare(audience: &str) -> &str {
        let rest = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://")).unwrap_or(audience);
        rest.strip_suffix('/').unwrap_or(rest)
    }
    bare(a) == bare(b)
}
