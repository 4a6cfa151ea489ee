//! Probes and hooks of the application, asked through the sidecar: a kubelet cannot speak mTLS, so the injector sends it
//! to port 15020 and tells us where it would have gone (`ISTIO_KUBE_APP_PROBERS`).

mod ask;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

/// Kubernetes' own limit of a probe that names none.
const LIMIT: Duration = Duration::from_secs(1);

/// All probes and hooks, by the path they are asked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppProbes(BTreeMap<String, Probe>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Probe {
    ask: Ask,
    limit: Duration,
}

/// What the kubelet would have asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ask {
    Http(Http),
    Tcp { port: u16 },
    Grpc { port: u16, service: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Http {
    port: u16,
    path: String,
    tls: bool,
    /// The `Host` that is sent; the address where none is given.
    host: Option<HeaderValue>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl AppProbes {
    /// Reads what the injector wrote.
    ///
    /// # Errors
    /// What is malformed, with the path of its probe.
    pub fn parse(text: &str) -> Result<Self, String> {
        let all: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let one = |(path, value): (String, Value)| {
            let probe = probe(&value).map_err(|reason| format!("{path}: {reason}"))?;
            Ok((path, probe))
        };
        all.into_iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a path is one of a probe or hook, known or not.
    pub(crate) fn is_path(path: &str) -> bool {
        path.starts_with("/app-health/") || path.starts_with("/app-lifecycle/")
    }

    /// Asks the application at `pod`, with the headers that we were asked with; the answer is the application's own.
    pub(crate) async fn answer(&self, path: &str, headers: &HeaderMap, pod: IpAddr) -> (StatusCode, Bytes) {
        let Some(probe) = self.0.get(path) else {
            return (StatusCode::BAD_REQUEST, format!("no container of this pod has the probe {path}\n").into());
        };
        let asked = async {
            match &probe.ask {
                Ask::Http(http) => ask::http(http, headers, pod).await,
                Ask::Tcp { port } => ask::connect(pod, *port).await.map(|_| (StatusCode::OK, Bytes::new())),
                Ask::Grpc { port, service } => ask::grpc(pod, *port, service).await,
            }
        };
        match tokio::time::timeout(probe.limit, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(reason)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{path}: {reason}\n").into()),
            Err(_) => {
                let reason = format!("{path}: no answer within {:?}\n", probe.limit);
                (StatusCode::INTERNAL_SERVER_ERROR, reason.into())
            }
        }
    }
}

fn probe(value: &Value) -> Result<Probe, String> {
    let ask = if let Some(asked) = value.get("httpGet") {
        Ask::Http(http(asked)?)
    } else if let Some(asked) = value.get("tcpSocket") {
        Ask::Tcp { port: port(asked)? }
    } else if let Some(asked) = value.get("grpc") {
        let service = asked["service"].as_str().unwrap_or_default().to_owned();
        Ask::Grpc { port: port(asked)?, service }
    } else {
        return Err("it has none of httpGet, tcpSocket and grpc".to_owned());
    };
    let seconds = value.get("timeoutSeconds").and_then(Value::as_u64).filter(|s| *s > 0);
    Ok(Probe { ask, limit: seconds.map_or(LIMIT, Duration::from_secs) })
}

fn port(asked: &Value) -> Result<u16, String> {
    let number = asked["port"].as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
    number.ok_or_else(|| format!("its port {} is not a number of a port", asked["port"]))
}

fn http(asked: &Value) -> Result<Http, String> {
    let text = |key: &str| asked[key].as_str().filter(|t| !t.is_empty());
    let header = |value: &str| HeaderValue::from_str(value).map_err(|_| format!("\"{value}\" is no header's value"));
    let mut host = text("host").map(header).transpose()?;
    let mut headers = Vec::new();
    for one in asked["httpHeaders"].as_array().into_iter().flatten() {
        let name = one["name"].as_str().unwrap_or_default();
        let value = header(one["value"].as_str().unwrap_or_default())?;
        match name.parse().map_err(|_| format!("\"{name}\" is no header's name"))? {
            http::header::HOST => host = Some(value),
            name => headers.push((name, value)),
        }
    }
    let path = text("path").unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(Http { port: port(asked)?, path, tls: text("scheme") == Some("HTTPS"), host, headers })
}
