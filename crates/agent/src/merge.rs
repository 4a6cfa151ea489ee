//! The application's own metrics, shown beside the sidecar's: Prometheus then needs one port of a pod.

use http::StatusCode;
use serde_json::Value;

use crate::request::fetch;

/// The pod's prometheus.io annotations, as Istio's injector hands them over.
const VARIABLE: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";

/// Where the application shows its metrics; `None` when the pod does not ask for it.
fn place(annotations: &str) -> Option<(u16, String)> {
    let value: Value = serde_json::from_str(annotations).ok()?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if text("scrape") != Some("true") {
        return None;
    }
    let path = text("path").unwrap_or("/metrics");
    // Prometheus' own default where the pod names none.
    let port = text("port").unwrap_or("80").parse().ok()?;
    // Our own page would ask itself for ever.
    (port != 15020).then(|| (port, if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }))
}

/// The application's metrics; empty when it shows none or does not answer.
pub(crate) async fn application() -> String {
    let Some((port, path)) = std::env::var(VARIABLE).ok().and_then(|text| place(&text)) else { return String::new() };
    match fetch(port, "GET", &path).await {
        Ok((StatusCode::OK, body)) => {
            let mut text = String::from_utf8_lossy(&body).into_owned();
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text
        }
        Ok((status, _)) => {
            tracing::warn!(port, path, %status, "the application's metrics are not there");
            String::new()
        }
        Err(error) => {
            tracing::warn!(port, path, %error, "the application's metrics cannot be read");
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_say_where_metrics_are() {
        assert_eq!(place(r#"{"scrape":"true","path":"stats","port":"9000"}"#), Some((9000, "/stats".to_owned())));
        assert_eq!(place(r#"{"scrape":"true","path":"","port":""}"#), Some((80, "/metrics".to_owned())));
        assert_eq!(place(r#"{"scrape":"false","port":"9000"}"#), None);
        assert_eq!(place(r#"{"scrape":"true","port":"15020"}"#), None);
    }
}
