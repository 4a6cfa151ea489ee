//! Levels of istiod's log, to see and to set while it runs: the `/scopej` pages of Istio's ControlZ, on port 9876.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The largest question: one scope.
const MAX_BODY: usize = 64 << 10;

/// Puts a filter of the log in force, as the program's subscriber takes it.
pub type SetFilter = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// A scope under Istio's name, where Istio has one: its part of ours, and what it is about.
struct Scope {
    name: &'static str,
    /// Empty: everything that is no other scope's.
    target: &'static str,
    description: &'static str,
}

const SCOPES: [Scope; 8] = [
    Scope { name: "ads", target: "xds", description: "configuration as it is sent to proxies" },
    Scope { name: "ca", target: "citadel", description: "certificates that are signed" },
    Scope { name: "default", target: "", description: "everything that is no other scope's" },
    Scope { name: "file", target: "sources", description: "files of configuration as they are read" },
    Scope { name: "kube", target: "kubernetes", description: "the API server: watches, leases, roots" },
    Scope { name: "model", target: "pilot", description: "the mesh as it is translated" },
    Scope { name: "rootcertrotator", target: "istiod::rotation", description: "roots as they are replaced" },
    Scope { name: "status", target: "istiod::verdict", description: "statuses that are written to resources" },
];

/// Istio's levels with ours.
const LEVELS: [(&str, &str); 7] = [
    ("none", "off"),
    ("fatal", "error"),
    ("error", "error"),
    ("warn", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("trace", "trace"),
];

/// The levels in force.
pub(crate) struct Scopes {
    /// Parts with their levels; the empty part is everything else. The longest that fits counts.
    directives: Mutex<Vec<(String, String)>>,
    set: SetFilter,
}

/// Why a level is not set.
type Refusal = (StatusCode, String);

impl Scopes {
    /// Levels that are in force by `filter`: directives `TARGET=LEVEL` and `LEVEL` with commas between them.
    pub(crate) fn new(filter: &str, set: SetFilter) -> Self {
        let one = |part: &str| match part.split_once('=') {
            Some((target, level)) => (target.to_owned(), level.to_lowercase()),
            None => (String::new(), part.to_lowercase()),
        };
        let directives = filter.split(',').map(str::trim).filter(|p| !p.is_empty()).map(one).collect();
        Self { directives: Mutex::new(directives), set }
    }

    fn level(&self, target: &str) -> &'static str {
        let directives = self.directives.lock();
        let fits = directives.iter().filter(|(t, _)| target.starts_with(t.as_str()));
        // What no directive is about is told errors only, as `EnvFilter` does.
        let ours = fits.max_by_key(|(t, _)| t.len()).map_or("error", |(_, level)| level.as_str());
        LEVELS.iter().rev().find(|(_, l)| *l == ours && ours != "error").map_or("error", |(name, _)| *name)
    }

    fn shown(&self, scope: &Scope) -> Value {
        json!({
            "name": scope.name, "description": scope.description, "output_level": self.level(scope.target),
            "stack_trace_level": "none", "log_callers": false,
        })
    }

    fn all(&self) -> Value {
        SCOPES.iter().map(|scope| self.shown(scope)).collect()
    }

    /// Sets a scope's level as `wanted` says.
    fn put(&self, scope: &Scope, wanted: &Value) -> Result<(), Refusal> {
        let bad = |reason: String| (StatusCode::BAD_REQUEST, reason);
        let stack = wanted["stack_trace_level"].as_str().unwrap_or_default();
        if !["", "none"].contains(&stack) || wanted["log_callers"] == true {
            return Err(bad("stack_trace_level, log_callers: this istiod's log has neither".to_owned()));
        }
        let word = match wanted["output_level"].as_str().unwrap_or_default() {
            // Only what is named is changed.
            "" => return Ok(()),
            word => word,
        };
        let ours = LEVELS.iter().find(|(name, _)| *name == word).map(|(_, ours)| (*ours).to_owned());
        let ours = ours.ok_or_else(|| {
            let known = LEVELS.map(|(name, _)| name).join(", ");
            bad(format!("output_level: \"{word}\" is no level; use one of {known}"))
        })?;
        // What the scope was before is what the others keep: they do not follow the default.
        let others: Vec<_> = SCOPES.iter().map(|s| (s.target, self.level(s.target))).collect();
        let mut directives = self.directives.lock();
        let mut new = directives.clone();
        new.retain(|(target, _)| SCOPES.iter().all(|s| s.target != target));
        for (target, level) in others {
            let kept = LEVELS.iter().find(|(name, _)| *name == level).map_or("error", |(_, ours)| *ours);
            let level = if target == scope.target { ours.clone() } else { kept.to_owned() };
            new.push((target.to_owned(), level));
        }
        let text = |(target, level): &(String, String)| match target.is_empty() {
            true => level.clone(),
            false => format!("{target}={level}"),
        };
        let filter = new.iter().map(text).collect::<Vec<_>>().join(",");
        (self.set)(&filter).map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e))?;
        *directives = new;
        Ok(())
    }

    /// Answers a request: all scopes, or one, or one with a new level.
    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let Some(name) = path.strip_prefix("/scopej").map(|rest| rest.trim_matches('/')) else {
            return (StatusCode::NOT_FOUND, "the pages here are /scopej/ and /scopej/SCOPE".into());
        };
        let scope = SCOPES.iter().find(|s| s.name == name);
        match (method, scope) {
            (&Method::GET, None) if name.is_empty() => (StatusCode::OK, self.all()),
            (_, None) => {
                let known = SCOPES.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
                (StatusCode::NOT_FOUND, format!("there is no scope \"{name}\"; use one of {known}").into())
            }
            (&Method::GET, Some(scope)) => (StatusCode::OK, self.shown(scope)),
            (&Method::PUT, Some(scope)) => {
                let wanted: Result<Value, _> = serde_json::from_slice(body);
                let done = wanted.map_err(|e| (StatusCode::BAD_REQUEST, format!("the scope is no JSON: {e}")));
                match done.and_then(|wanted| self.put(scope, &wanted)) {
                    Ok(()) => (StatusCode::ACCEPTED, self.shown(scope)),
                    Err((status, reason)) => (status, reason.into()),
                }
            }
            _ => (StatusCode::METHOD_NOT_ALLOWED, "use GET or PUT".into()),
        }
    }
}

/// Serves the pages until the process ends.
pub(crate) async fn serve(listener: TcpListener, scopes: Arc<Scopes>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let scopes = scopes.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let scopes = scopes.clone();
                async move { Ok::<_, Infallible>(respond(&scopes, request).await) }
            });
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn respond(scopes: &Scopes, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let (status, value) = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => scopes.answer(&head.method, head.uri.path(), &body.to_bytes()),
        Err(_) => (StatusCode::PAYLOAD_TOO_LARGE, "the question is too long or incomplete".into()),
    };
    let (kind, text) = match value {
        Value::String(reason) => ("text/plain", format!("{reason}\n")),
        value => ("application/json", format!("{value:#}\n")),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_set_and_the_others_stay() {
        let in_force: Arc<Mutex<String>> = Arc::default();
        let seen = in_force.clone();
        let set: SetFilter = Arc::new(move |filter| {
            filter.clone_into(&mut seen.lock());
            Ok(())
        });
        let scopes = Scopes::new("info,kubernetes=warn,h2=off", set);
        let get = |name: &str| scopes.answer(&Method::GET, &format!("/scopej/{name}"), b"").1;
        let level = |name: &str| get(name)["output_level"].as_str().map(str::to_owned);
        assert_eq!((level("ads").as_deref(), level("kube").as_deref()), (Some("info"), Some("warn")));
        let put = |name: &str, body: &str| scopes.answer(&Method::PUT, &format!("/scopej/{name}"), body.as_bytes());
        let (status, shown) = put("ads", r#"{"name": "ads", "output_level": "debug"}"#);
        assert_eq!((status, &shown["output_level"]), (StatusCode::ACCEPTED, &json!("debug")));
        let filter = in_force.lock().clone();
        let has = |part: &str| filter.split(',').any(|p| p == part);
        assert!(has("xds=debug") && has("info") && has("kubernetes=warn") && has("h2=off"), "{filter}");
        assert_eq!(put("default", r#"{"output_level": "none"}"#).0, StatusCode::ACCEPTED);
        assert_eq!(
            ["default", "ads", "ca", "kube"].map(|n| level(n).unwrap_or_default()),
            ["none", "debug", "info", "warn"]
        );
    }

    #[test]
    fn what_cannot_be_set_is_refused_by_name() {
        let scopes = Scopes::new("info", Arc::new(|_| Ok(())));
        let put = |path: &str, body: &str| scopes.answer(&Method::PUT, path, body.as_bytes());
        let refused = |path: &str, body: &str, status: u16, words: &str| {
            let (code, reason) = put(path, body);
            assert!(code.as_u16() == status && reason.to_string().contains(words), "{code} {reason}");
        };
        refused("/scopej/ads", r#"{"output_level": "loud"}"#, 400, "loud");
        refused("/scopej/ads", r#"{"stack_trace_level": "debug"}"#, 400, "stack_trace_level");
        refused("/scopej/ads", "{", 400, "no JSON");
        refused("/scopej/nothing", "{}", 404, "nothing");
        assert_eq!(scopes.answer(&Method::DELETE, "/scopej/ads", b"").0, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(scopes.answer(&Method::GET, "/other", b"").0, StatusCode::NOT_FOUND);
        assert_eq!(scopes.all().as_array().map(Vec::len), Some(SCOPES.len()));
    }
}
