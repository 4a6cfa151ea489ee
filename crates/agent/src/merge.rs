//! The application's own metrics, shown beside the sidecar's: Prometheus then needs one port of a pod.

use http::StatusCode;
use serde_json::Value;

use crate::request::fetch;

/// Where the application shows its metrics: the pod's prometheus.io annotations, as Istio's injector hands them over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrape(Vec<(u16, String)>);

impl Scrape {
    /// Reads what the injector wrote.
    ///
    /// # Errors
    /// What is malformed, or our own page, which would ask itself for ever.
    pub fn parse(annotations: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(annotations).map_err(|e| e.to_string())?;
        if value["scrape"] != "true" {
            return Ok(Self::default());
        }
        let targets = value["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        // Several places are a list; one is told by itself.
        let places = if targets.is_empty() { std::slice::from_ref(&value) } else { targets };
        places.iter().map(place).collect::<Result<_, _>>().map(Self)
    }

    /// The application's metrics; what does not answer is left out.
    pub(crate) async fn read(&self) -> String {
        let mut all = String::new();
        for (port, path) in &self.0 {
            match fetch(*port, "GET", path).await {
                Ok((StatusCode::OK, body)) => append(&mut all, &String::from_utf8_lossy(&body)),
                Ok((status, _)) => tracing::warn!(port, path, %status, "the application's metrics are not there"),
                Err(error) => tracing::warn!(port, path, %error, "the application's metrics cannot be read"),
            }
        }
        all
    }
}

/// Which proxy and which agent this is, as Istio's dashboards count them.
pub(crate) fn build() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let one = |component: &str| format!("istio_build{{component=\"{component}\",tag=\"{version}\"}} 1\n");
    format!("# TYPE istio_build gauge\n{}{}", one("proxy"), one("agent"))
}

fn place(value: &Value) -> Result<(u16, String), String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let path = text("path").unwrap_or("/metrics");
    // Prometheus' own default where the pod names none.
    let port = text("port").unwrap_or("80");
    let port: u16 = port.parse().map_err(|_| format!("\"{port}\" is no port"))?;
    if port == 15020 {
        return Err("port 15020 is the sidecar's own; name the application's".to_owned());
    }
    Ok((port, if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }))
}

/// Adds a page of metrics; the end that OpenMetrics wants is not the end here.
fn append(all: &mut String, page: &str) {
    for line in page.lines().filter(|line| *line != "# EOF") {
        all.push_str(line);
        all.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<(u16, String)> {
        Scrape::parse(text).expect("annotations").0
    }

    #[test]
    fn annotations_say_where_metrics_are() {
        assert_eq!(places(r#"{"scrape":"true","path":"stats","port":"9000"}"#), [(9000, "/stats".to_owned())]);
        assert_eq!(places(r#"{"scrape":"true","path":"","port":""}"#), [(80, "/metrics".to_owned())]);
        assert_eq!(places(r#"{"scrape":"false","port":"9000"}"#), []);
        let several = r#"{"scrape":"true","targets":[{"port":"1","path":"/a"},{"port":"2","path":"/b"}]}"#;
        assert_eq!(places(several), [(1, "/a".to_owned()), (2, "/b".to_owned())]);
        assert!(Scrape::parse(r#"{"scrape":"true","port":"15020"}"#).is_err_and(|e| e.contains("own")));
        assert!(Scrape::parse(r#"{"scrape":"true","port":"web"}"#).is_err_and(|e| e.contains("web")));
    }

    #[test]
    fn the_build_is_told() {
        let page = build();
        assert_eq!(page.lines().filter(|l| l.starts_with("istio_build{") && l.ends_with("} 1")).count(), 2, "{page}");
        assert!(page.contains("component=\"agent\"") && page.contains(env!("CARGO_PKG_VERSION")), "{page}");
    }

    #[test]
    fn pages_follow_each_other() {
        let mut all = String::new();
        append(&mut all, "a 1\n# EOF\n");
        append(&mut all, "b 2");
        assert_eq!(all, "a 1\nb 2\n");
    }
}
