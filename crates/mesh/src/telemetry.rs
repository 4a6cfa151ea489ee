//! What Telemetry resources say about one workload, level by level.

use istio_api::extensions::{AccessLogging, Telemetry, Tracing};
use serde_json::Value;

/// Which end of a call a sidecar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It calls for its workload.
    Client,
    /// It is called.
    Server,
}

impl Side {
    /// Whether `match.mode` takes this side in.
    fn is_meant(self, wanted: Option<&Value>) -> bool {
        match wanted.and_then(|m| m["mode"].as_str()) {
            Some("CLIENT") => self == Self::Client,
            Some("SERVER") => self == Self::Server,
            _ => true,
        }
    }
}

/// What is said about tracing, all levels as one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TracingRules {
    /// The name of who is told.
    pub provider: Option<String>,
    /// The one entry that counts for each question.
    pub spec: Tracing,
}

/// What the levels say about tracing; a narrower one counts for each question that it answers.
pub(crate) fn tracing<'a>(levels: impl IntoIterator<Item = &'a Telemetry>, side: Side) -> TracingRules {
    let mut rules = TracingRules::default();
    let entries = levels.into_iter().flat_map(|t| &t.tracing).filter(|entry| side.is_meant(entry.r#match.as_ref()));
    for entry in entries {
        if let Some(provider) = entry.providers.first() {
            rules.provider = Some(provider.name.clone());
        }
        let spec = &mut rules.spec;
        spec.random_sampling_percentage = entry.random_sampling_percentage.or(spec.random_sampling_percentage);
        spec.disable_span_reporting = entry.disable_span_reporting.or(spec.disable_span_reporting);
        spec.enable_istio_tags = entry.enable_istio_tags.or(spec.enable_istio_tags);
        if !entry.custom_tags.is_empty() {
            spec.custom_tags.clone_from(&entry.custom_tags);
        }
    }
    rules
}

/// Who gets access logs, by name; `None` where no resource says anything. A level that names nobody means those that the
/// level above it named, at the top the mesh's defaults.
pub(crate) fn access_logs<'a>(
    levels: impl IntoIterator<Item = &'a Telemetry>,
    side: Side,
    defaults: &[String],
) -> Option<Vec<String>> {
    let entries: Vec<&AccessLogging> = levels
        .into_iter()
        .flat_map(|t| &t.access_logging)
        .filter(|entry| side.is_meant(entry.r#match.as_ref()))
        .collect();
    if entries.is_empty() {
        return None;
    }
    let mut above = defaults.to_vec();
    let mut chosen: Vec<String> = Vec::new();
    for entry in entries {
        let named: Vec<String> = entry.providers.iter().map(|p| p.name.clone()).collect();
        if !named.is_empty() {
            // Who is named anew takes the place of who was named above.
            chosen.retain(|name| named.contains(name));
            above = named;
        }
        for name in &above {
            chosen.retain(|known| known != name);
            if !entry.disabled.unwrap_or(false) {
                chosen.push(name.clone());
            }
        }
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: Value) -> Telemetry {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_narrower_level_answers_what_it_asks() {
        let mesh = spec(json!({"tracing": [{"providers": [{"name": "zipkin"}], "randomSamplingPercentage": 5.0}]}));
        let own = spec(json!({"tracing": [
            {"match": {"mode": "SERVER"}, "randomSamplingPercentage": 100.0},
            {"match": {"mode": "CLIENT"}, "disableSpanReporting": true}
        ]}));
        let rules = |side| tracing([&mesh, &own], side);
        assert_eq!(rules(Side::Server).provider.as_deref(), Some("zipkin"));
        assert_eq!(rules(Side::Server).spec.random_sampling_percentage, Some(100.0));
        assert_eq!(rules(Side::Client).spec.random_sampling_percentage, Some(5.0));
        assert_eq!(rules(Side::Client).spec.disable_span_reporting, Some(true));
        assert_eq!(tracing([], Side::Client), TracingRules::default());
    }

    #[test]
    fn who_gets_access_logs() {
        let names = |all: &[Value], side| {
            let specs: Vec<Telemetry> = all.iter().cloned().map(spec).collect();
            access_logs(&specs, side, &["default".to_owned()])
        };
        let envoy = json!({"accessLogging": [{"providers": [{"name": "envoy"}]}]});
        let off = json!({"accessLogging": [{"disabled": true}]});
        let servers = json!({"accessLogging": [{"match": {"mode": "CLIENT"}, "disabled": true}]});
        let some = |all: &[&str]| Some(all.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&[], Side::Client), None);
        assert_eq!(names(&[json!({})], Side::Client), None);
        assert_eq!(names(std::slice::from_ref(&envoy), Side::Client), some(&["envoy"]));
        assert_eq!(names(&[envoy.clone(), off.clone()], Side::Client), some(&[]));
        assert_eq!(names(std::slice::from_ref(&off), Side::Client), some(&[]));
        assert_eq!(names(&[envoy.clone(), servers.clone()], Side::Server), some(&["envoy"]));
        assert_eq!(names(&[envoy, servers], Side::Client), some(&[]));
        assert_eq!(names(&[json!({"accessLogging": [{}]})], Side::Client), some(&["default"]));
    }
}
