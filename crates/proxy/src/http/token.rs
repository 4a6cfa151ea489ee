//! Tokens of end users: checked before anything is decided, and taken out of the request where configuration says so.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, Uri};
use jwt::{Changes, Parts, Policy, TokenError};
use rules::RequestView;
use telemetry::ResponseFlags;

use super::reply::Local;

/// Judges the tokens of a request.
pub(crate) fn check(policy: &Policy, view: &RequestView<'_>) -> Result<Changes, Local> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    policy.check(Parts { headers: view.headers, path: view.path }, now).map_err(|error| refusal(error, view))
}

/// Envoy's answer: 401 with the reason, or 403 when the token is meant for others; the challenge of RFC 6750, 3.
fn refusal(error: TokenError, view: &RequestView<'_>) -> Local {
    let status = match error {
        TokenError::Audience => StatusCode::FORBIDDEN,
        _ => StatusCode::UNAUTHORIZED,
    };
    let details = format!("jwt_authn_access_denied{{{}}}", error.to_string().replace(' ', "_"));
    let realm = format!("Bearer realm=\"{}://{}{}\"", view.scheme, view.authority, view.path_only());
    let challenge = match error {
        TokenError::Missing => realm,
        _ => format!("{realm}, error=\"invalid_token\""),
    };
    Local {
        body: Bytes::from(error.to_string()),
        challenge: HeaderValue::try_from(challenge).ok().filter(|_| status == StatusCode::UNAUTHORIZED),
        ..Local::new(status, ResponseFlags::NONE, Cow::Owned(details), "")
    }
}

/// Makes the request what the application is to see.
pub(crate) fn apply<B>(changes: Changes, request: &mut Request<B>) {
    let headers = request.headers_mut();
    for name in &changes.remove {
        headers.remove(name);
    }
    for (name, value) in changes.set {
        headers.append(name, value);
    }
    // A path that has lost a parameter is still a path.
    if let Some(path) = changes.path.and_then(|p| PathAndQuery::try_from(p).ok()) {
        *request.uri_mut() = Uri::from(path);
    }
}
