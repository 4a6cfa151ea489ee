//! Which providers a request must satisfy, and what becomes of the request then.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::location::Location;
use crate::provider::{Provider, TokenError, sections};

/// The parts of a request in which tokens stand.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Headers.
    pub headers: &'a HeaderMap,
    /// Path with query.
    pub path: &'a str,
}

/// What is asked of a request; numbers are places among the policy's providers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// A good token of this provider.
    Provider(usize),
    /// One of these.
    Any(Vec<Requirement>),
    /// All of these.
    All(Vec<Requirement>),
    /// A request without any token is good, too.
    AllowMissing,
    /// Whatever the tokens are.
    AllowFailed,
}

/// Providers and what is asked for paths that begin with a text; the first that fits counts.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Providers.
    pub providers: Vec<Provider>,
    /// Path prefix and what is asked there; `None` asks nothing.
    pub rules: Vec<(Box<str>, Option<Requirement>)>,
    /// Requests that ask what a browser may do carry no token.
    pub bypass_preflight: bool,
}

/// What is known of a request's tokens, and what must change in the request before it goes on.
#[derive(Debug, Default)]
pub struct Changes {
    /// Claims by the provider's metadata name: what policies look at.
    pub claims: Map<String, Value>,
    /// Headers that go: good tokens, and headers that only we may set.
    pub remove: Vec<HeaderName>,
    /// Headers that come.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// The path without its token.
    pub path: Option<String>,
}

impl Policy {
    /// Judges a request at a moment in seconds since 1970.
    ///
    /// # Errors
    /// When what is asked is not met.
    pub fn check(&self, parts: Parts<'_>, now: u64) -> Result<Changes, TokenError> {
        let mut changes = Changes::default();
        for provider in &self.providers {
            // A client must not say what only a verified token may.
            changes.remove.extend(provider.payload_header.clone());
            changes.remove.extend(provider.claim_headers.iter().map(|c| c.header.clone()));
        }
        let rule = self.rules.iter().find(|(prefix, _)| parts.path.starts_with(&**prefix));
        if let Some((_, Some(requirement))) = rule {
            self.meet(requirement, parts, now, &mut changes)?;
        }
        Ok(changes)
    }

    fn meet(
        &self,
        requirement: &Requirement,
        parts: Parts<'_>,
        now: u64,
        changes: &mut Changes,
    ) -> Result<(), TokenError> {
        match requirement {
            Requirement::Provider(index) => match self.providers.get(*index) {
                Some(provider) => accept(provider, parts, now, changes),
                None => Err(TokenError::Issuer),
            },
            Requirement::All(all) => all.iter().try_for_each(|r| self.meet(r, parts, now, changes)),
            Requirement::Any(any) => self.meet_any(any, parts, now, changes),
            Requirement::AllowMissing | Requirement::AllowFailed => Ok(()),
        }
    }

    /// The first that is met decides. Otherwise the failure that says most; a request without any token may pass where
    /// that is allowed, one with a bad token may not.
    fn meet_any(
        &self,
        any: &[Requirement],
        parts: Parts<'_>,
        now: u64,
        changes: &mut Changes,
    ) -> Result<(), TokenError> {
        let mut failure = TokenError::Missing;
        for requirement in any {
            if matches!(requirement, Requirement::AllowMissing | Requirement::AllowFailed) {
                continue;
            }
            match self.meet(requirement, parts, now, changes) {
                Ok(()) => return Ok(()),
                Err(error) if weight(error) >= weight(failure) => failure = error,
                Err(_) => {}
            }
        }
        let allowed = any.contains(&Requirement::AllowFailed)
            || (failure == TokenError::Missing && any.contains(&Requirement::AllowMissing));
        if allowed { Ok(()) } else { Err(failure) }
    }
}

fn weight(error: TokenError) -> u8 {
    match error {
        TokenError::Missing => 0,
        TokenError::Issuer => 1,
        _ => 2,
    }
}

/// Takes the first good token of a provider; when none is good, the first failure that is not about a stranger's token.
fn accept(provider: &Provider, parts: Parts<'_>, now: u64, changes: &mut Changes) -> Result<(), TokenError> {
    let mut failure = TokenError::Missing;
    for location in &provider.locations {
        let Some(token) = location.find(&parts) else { continue };
        match provider.verify(token, now) {
            Ok(claims) => {
                note(provider, location, token, claims, parts, changes);
                return Ok(());
            }
            Err(error) if weight(error) > weight(failure) => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

fn note(provider: &Provider, location: &Location, token: &str, claims: Value, parts: Parts<'_>, changes: &mut Changes) {
    if !provider.forward {
        match location {
            Location::Header(name, _) => changes.remove.push(name.clone()),
            Location::Param(_) => {
                let path = changes.path.as_deref().unwrap_or(parts.path);
                changes.path = location.without(path);
            }
            // Envoy leaves cookies as they are.
            Location::Cookie(_) => {}
        }
    }
    if let Some(name) = &provider.payload_header
        && let Ok((_, payload)) = sections(token)
    {
        let text = match provider.pad_payload {
            true => format!("{payload}{}", "=".repeat((4 - payload.len() % 4) % 4)),
            false => payload.to_owned(),
        };
        changes.set.extend(HeaderValue::try_from(text).ok().map(|v| (name.clone(), v)));
    }
    for copy in &provider.claim_headers {
        let claim = copy.claim.iter().try_fold(&claims, |value, key| value.get(key));
        let text = claim.and_then(as_header);
        changes.set.extend(text.and_then(|t| HeaderValue::try_from(t).ok()).map(|v| (copy.header.clone(), v)));
    }
    if !provider.metadata.is_empty() {
        changes.claims.insert(provider.metadata.to_string(), claims);
    }
}

/// Texts, numbers and truth values as they are; what is composed as base64url of its JSON, as Envoy writes it.
fn as_header(claim: &Value) -> Option<String> {
    Some(match claim {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Array(_) | Value::Object(_) => BASE64_URL_SAFE.encode(claim.to_string()),
        Value::Null => return None,
    })
}
