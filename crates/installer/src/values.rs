//! What an installation may be told: Istio's operator values, as far as they mean something here.

use istio_api::mesh::MeshConfig;
use istio_api::yaml;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Why values are of no use.
#[derive(Debug, thiserror::Error)]
pub enum ValuesError {
    /// `--set` without `=`.
    #[error("--set {0}: write NAME=VALUE, such as values.pilot.replicaCount=2")]
    Shape(String),
    /// A file is no YAML.
    #[error("line {line}: {reason}")]
    Yaml {
        /// From 1.
        line: u64,
        /// The reader's words.
        reason: String,
    },
    /// A name that nothing here listens to, or a value of the wrong kind.
    #[error("{name}: {reason}")]
    Value {
        /// Such as `values.global.hub`.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// The values of an installation (`spec` of an IstioOperator).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Values {
    /// `default` or `minimal`; they are the same here: no gateway is installed with either.
    pub profile: Option<String>,
    /// Registry and path before the image's name.
    pub hub: Option<String>,
    /// The image's tag.
    pub tag: Option<String>,
    /// Namespace of the control plane.
    pub namespace: Option<String>,
    /// The control plane's revision.
    pub revision: Option<String>,
    /// The mesh configuration, as Istio's.
    pub mesh_config: Value,
    /// The chart's values.
    pub values: Chart,
}

/// Values of Istio's charts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Chart {
    /// For all parts.
    pub global: Global,
    /// For istiod.
    pub pilot: Pilot,
}

/// `values.global`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Global {
    /// As `hub`.
    pub hub: Option<String>,
    /// As `tag`.
    pub tag: Option<Value>,
    /// When nodes fetch the image.
    pub image_pull_policy: Option<String>,
    /// As `namespace`.
    pub istio_namespace: Option<String>,
    /// The cluster's name.
    pub multi_cluster: MultiCluster,
    /// The sidecar.
    pub proxy: Proxy,
}

/// `values.global.multiCluster`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MultiCluster {
    /// The cluster's name.
    pub cluster_name: Option<String>,
}

/// `values.global.proxy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Proxy {
    /// Name of the image, or the whole of it.
    pub image: Option<String>,
}

/// `values.pilot`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Pilot {
    /// Name of the image, or the whole of it.
    pub image: Option<String>,
    /// Replicas of istiod.
    pub replica_count: Option<u32>,
    /// Its resources, as in a container.
    pub resources: Option<Value>,
    /// Environment variables besides our own.
    pub env: Map<String, Value>,
}

/// Name of the one image.
const IMAGE: &str = "meltemi";

impl Values {
    /// Files (each an IstioOperator, or its spec alone) in order, then `NAME=VALUE` settings.
    ///
    /// # Errors
    /// The first name or value that cannot be honoured.
    pub fn read<'a>(
        files: impl IntoIterator<Item = &'a str>,
        settings: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, ValuesError> {
        let mut all = Value::Object(Map::new());
        for text in files {
            let documents =
                yaml::parse(text).map_err(|e| ValuesError::Yaml { line: e.place.line, reason: e.reason.clone() })?;
            for document in documents {
                let spec = if document.value["kind"] == "IstioOperator" {
                    document.value["spec"].clone()
                } else {
                    document.value
                };
                overlay(&mut all, spec);
            }
        }
        for setting in settings {
            set(&mut all, setting)?;
        }
        let values: Self = serde_path_to_error::deserialize(&all)
            .map_err(|e| ValuesError::Value { name: e.path().to_string(), reason: explain(e.inner()) })?;
        values.check()?;
        Ok(values)
    }

    fn check(&self) -> Result<(), ValuesError> {
        let no = |name: &str, reason: String| Err(ValuesError::Value { name: name.to_owned(), reason });
        if let Some(other) = self.profile.as_deref().filter(|p| !["default", "minimal"].contains(p)) {
            return no("profile", format!("the profile {other} is not built; use default or minimal"));
        }
        for (name, text) in [("revision", self.revision()), ("namespace", self.namespace())] {
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
                return no(name, format!("\"{text}\" must be made of a-z, 0-9 and -"));
            }
        }
        if !self.mesh_config.is_null() {
            serde_path_to_error::deserialize::<_, MeshConfig>(&self.mesh_config).map_err(|e| ValuesError::Value {
                name: format!("meshConfig.{}", e.path()),
                reason: explain(e.inner()),
            })?;
        }
        Ok(())
    }

    /// Namespace of the control plane.
    pub fn namespace(&self) -> &str {
        let given = self.namespace.as_deref().or(self.values.global.istio_namespace.as_deref());
        given.unwrap_or("istio-system")
    }

    /// The control plane's revision; `default` when none is named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().filter(|r| !r.is_empty()).unwrap_or("default")
    }

    /// Istio's names of things that exist once a revision.
    pub fn of_revision(&self, name: &str) -> String {
        if self.revision() == "default" { name.to_owned() } else { format!("{name}-{}", self.revision()) }
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        self.values.global.multi_cluster.cluster_name.as_deref().filter(|c| !c.is_empty()).unwrap_or("Kubernetes")
    }

    /// Whether istiod writes statuses (Istio's `PILOT_ENABLE_STATUS`).
    pub fn writes_status(&self) -> bool {
        self.values.pilot.env.get("PILOT_ENABLE_STATUS").is_none_or(|v| v != "false" && *v != Value::Bool(false))
    }

    /// The image of istiod.
    pub fn pilot_image(&self) -> String {
        self.image(self.values.pilot.image.as_deref())
    }

    /// The image of sidecars.
    pub fn proxy_image(&self) -> String {
        self.image(self.values.global.proxy.image.as_deref())
    }

    /// When nodes fetch the images; empty: Kubernetes decides.
    pub fn pull_policy(&self) -> &str {
        self.values.global.image_pull_policy.as_deref().unwrap_or_default()
    }

    fn image(&self, name: Option<&str>) -> String {
        let name = name.unwrap_or(IMAGE);
        if name.contains(['/', ':']) {
            return name.to_owned();
        }
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let tag = self.tag.clone().or_else(|| self.values.global.tag.as_ref().map(text));
        let tag = tag.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
        match self.hub.as_ref().or(self.values.global.hub.as_ref()) {
            Some(hub) => format!("{}/{name}:{tag}", hub.trim_end_matches('/')),
            None => format!("{name}:{tag}"),
        }
    }
}

/// serde's words with a hint.
fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        Some((name, _)) => format!("nothing here listens to \"{name}\"; remove it"),
        None => text,
    }
}

fn overlay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                overlay(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// `a.b.c=VALUE`; a dot within a name is written `\.`, an index of a list `[N]`.
fn set(all: &mut Value, setting: &str) -> Result<(), ValuesError> {
    let shape = || ValuesError::Shape(setting.to_owned());
    let (path, value) = setting.split_once('=').ok_or_else(shape)?;
    let mut at = all;
    for name in path.replace("\\.", "\0").split('.') {
        let name = name.replace('\0', ".");
        if name.is_empty() || name.contains('[') {
            return Err(shape());
        }
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = at.as_object_mut().ok_or_else(shape)?.entry(name).or_insert(Value::Null);
    }
    // As YAML would read it: numbers and booleans are what they look like.
    *at = match value {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        text => text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_then_settings() {
        let file = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {hub: one, tag: t, meshConfig: {accessLogFile: /dev/stdout}}\n";
        let values =
            Values::read([file], ["hub=reg.example/mesh", "values.pilot.replicaCount=2", "revision=canary"]).unwrap();
        assert_eq!(values.pilot_image(), "reg.example/mesh/meltemi:t");
        assert_eq!(
            (values.values.pilot.replica_count, values.of_revision("istiod")),
            (Some(2), "istiod-canary".to_owned())
        );
        assert_eq!(values.mesh_config["accessLogFile"], "/dev/stdout");
    }

    #[test]
    fn what_changes_nothing_is_refused_by_name() {
        for (setting, words) in [
            ("values.pilot.autoscale=true", "values.pilot"),
            ("meshConfig.nonsense=1", "nonsense"),
            ("profile=ambient", "ambient"),
            ("revision=A", "revision"),
            ("novalue", "NAME=VALUE"),
            ("values.pilot.replicaCount=many", "replicaCount"),
        ] {
            let error = Values::read([], [setting]).unwrap_err().to_string();
            assert!(error.contains(words), "{setting}: {error}");
        }
    }
}
