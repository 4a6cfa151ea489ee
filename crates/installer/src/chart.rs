//! The manifest as a Helm chart: made of the manifest itself, with marks where values stand, so that both say the same.

use serde_json::{Value, json};

use crate::manifest::{manifest, to_yaml};
use crate::values::{Values, ValuesError};

/// What stands where a value will be, and the template that writes the value; the longest first.
const MARKS: [(&str, &str); 9] = [
    ("istio-sidecar-injector-zz-namespace", r#"{{ include "istiod.injector" . }}"#),
    ("zz-pull", "{{ .Values.global.imagePullPolicy }}"),
    ("zz-namespace", "{{ .Values.global.istioNamespace }}"),
    ("zz-revision", "{{ .Values.revision }}"),
    ("zz-cluster", "{{ .Values.global.multiCluster.clusterName }}"),
    ("zz.trust", r#"{{ .Values.meshConfig.trustDomain | default "cluster.local" }}"#),
    ("zz/pilot:image", r#"{{ include "istiod.image" (list . .Values.pilot.image) }}"#),
    ("zz/proxy:image", r#"{{ include "istiod.image" (list . .Values.global.proxy.image) }}"#),
    ("7919", "{{ .Values.pilot.replicaCount }}"),
];
/// What the marks are set by.
const SETTINGS: [&str; 10] = [
    "namespace=zz-namespace",
    "values.global.multiCluster.clusterName=zz-cluster",
    "values.global.imagePullPolicy=zz-pull",
    "values.global.proxy.image=zz/proxy:image",
    "values.pilot.image=zz/pilot:image",
    "values.pilot.replicaCount=7919",
    "values.pilot.env.ZZ_NAME=zz-value",
    "values.pilot.resources.zz=resources",
    "meshConfig.trustDomain=zz.trust",
    "profile=default",
];
/// Whether istiod writes statuses.
const STATUS: &str = r#"(ne (toString (get .Values.pilot.env "PILOT_ENABLE_STATUS")) "false")"#;
/// The mesh configuration with what the manifest sets when it is not set.
const MESH: &str = r#"{{ toYaml (merge (deepCopy .Values.meshConfig) (dict "trustDomain" "cluster.local" "rootNamespace" .Values.global.istioNamespace)) | quote }}"#;

const HELPERS: &str = r#"{{- define "istiod.injector" -}}
istio-sidecar-injector{{ if ne .Values.global.istioNamespace "istio-system" }}-{{ .Values.global.istioNamespace }}{{ end }}
{{- end }}

{{- /* An image's name with hub and tag, unless it is whole already. */}}
{{- define "istiod.image" -}}
{{- $root := index . 0 }}{{ $name := index . 1 }}{{ $global := $root.Values.global -}}
{{- if or (contains "/" $name) (contains ":" $name) }}{{ $name }}
{{- else if $global.hub }}{{ $global.hub | trimSuffix "/" }}/{{ $name }}:{{ $global.tag | default $root.Chart.AppVersion }}
{{- else }}{{ $name }}:{{ $global.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}
"#;

const VALUES: &str = r#"# Values of the control plane, named as Istio's charts name them.

# Revision of the control plane; "default" is the one that namespaces with istio-injection=enabled get.
revision: default
# The mesh configuration, as Istio's MeshConfig.
meshConfig: {}
global:
  # Registry and path before the image's name; with none the name stands alone.
  hub: ""
  # The image's tag; with none the chart's version.
  tag: ""
  # When nodes fetch the image; with none Kubernetes decides.
  imagePullPolicy: ""
  # Namespace of the control plane.
  istioNamespace: istio-system
  multiCluster:
    # The cluster's name.
    clusterName: Kubernetes
  proxy:
    # Name of the sidecar's image, or the whole of it.
    image: meltemi
pilot:
  # Name of istiod's image, or the whole of it.
  image: meltemi
  # Replicas of istiod.
  replicaCount: 1
  # Environment variables of istiod.
  env: {}
  # Resources of istiod.
  resources:
    requests:
      cpu: 50m
      memory: 64Mi
"#;

/// The files of the chart: path and text.
///
/// # Errors
/// When an object cannot be written.
pub fn chart() -> Result<Vec<(&'static str, String)>, ValuesError> {
    let version = env!("CARGO_PKG_VERSION");
    let about = format!(
        "apiVersion: v2\nname: istiod\ndescription: Meltemi, a service mesh that takes Istio's API\ntype: application\nversion: {version}\nappVersion: \"{version}\"\n"
    );
    let mut kinds = manifest(&Values::default())?;
    kinds.retain(|o| o["kind"] == "CustomResourceDefinition");
    let mut templates = String::new();
    for (condition, revision) in [("eq", "default"), ("ne", "zz-revision")] {
        templates += &format!("{{{{- if {condition} .Values.revision \"default\" }}}}\n");
        templates += &objects(revision)?;
        templates += "{{- end }}\n";
    }
    Ok(vec![
        ("Chart.yaml", about),
        ("values.yaml", VALUES.to_owned()),
        ("crds/crds.yaml", to_yaml(&kinds)?),
        ("templates/_helpers.tpl", HELPERS.to_owned()),
        ("templates/istiod.yaml", templates),
    ])
}

/// All templates of a revision, or of the default one.
fn objects(revision: &str) -> Result<String, ValuesError> {
    let revision = format!("revision={revision}");
    let of = |status: &str| -> Result<Vec<Value>, ValuesError> {
        let status = format!("values.pilot.env.PILOT_ENABLE_STATUS={status}");
        let mut objects = manifest(&Values::read([], SETTINGS.into_iter().chain([revision.as_str(), &status]))?)?;
        // Helm makes the namespace, and takes CustomResourceDefinitions apart.
        objects.retain(|o| o["kind"] != "Namespace" && o["kind"] != "CustomResourceDefinition");
        for object in &mut objects {
            unset(object);
        }
        Ok(objects)
    };
    let mut out = String::new();
    for (with, without) in of("true")?.iter().zip(&of("false")?) {
        let body = if with == without {
            template(with)?
        } else {
            format!(
                "{{{{- if {STATUS} }}}}\n{}{{{{- else }}}}\n{}{{{{- end }}}}\n",
                template(with)?,
                template(without)?
            )
        };
        out += &match with["kind"].as_str() {
            Some("PodDisruptionBudget") => {
                format!("{{{{- if gt (int .Values.pilot.replicaCount) 1 }}}}\n---\n{body}{{{{- end }}}}\n")
            }
            _ => format!("---\n{body}"),
        };
    }
    Ok(out)
}

/// Takes out the switch by which the variants were made.
fn unset(object: &mut Value) {
    if let Some(env) = object.pointer_mut("/spec/template/spec/containers/0/env").and_then(Value::as_array_mut) {
        env.retain(|e| e["name"] != "PILOT_ENABLE_STATUS");
    }
    if object["data"]["mesh"].is_string() {
        object["data"] = json!({"mesh": "zz-mesh"});
    }
}

/// An object with templates where the marks are.
fn template(object: &Value) -> Result<String, ValuesError> {
    let text = to_yaml(std::slice::from_ref(object))?;
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let indent = &line[..line.len() - line.trim_start().len()];
        match line.trim_start() {
            "resources:" if lines.peek().is_some_and(|l| l.contains("zz: resources")) => {
                lines.next();
                out += &format!("{indent}resources: {{{{ toJson .Values.pilot.resources }}}}\n");
            }
            "imagePullPolicy: zz-pull" => {
                out += &format!(
                    "{{{{- with .Values.global.imagePullPolicy }}}}\n{indent}imagePullPolicy: {{{{ . }}}}\n{{{{- end }}}}\n"
                );
            }
            "- name: ZZ_NAME" => {
                lines.next();
                out += &format!(
                    "{{{{- range $name, $value := .Values.pilot.env }}}}\n{indent}- name: {{{{ $name }}}}\n{indent}  value: {{{{ $value | quote }}}}\n{{{{- end }}}}\n"
                );
            }
            "mesh: zz-mesh" => out += &format!("{indent}mesh: {MESH}\n"),
            _ => {
                out += &marked(line);
                out.push('\n');
            }
        }
    }
    Ok(out)
}

/// A line with the templates of its marks; text that is nothing but a mark is quoted, since a value may look like a
/// number.
fn marked(line: &str) -> String {
    let mut line = line.to_owned();
    for (mark, write) in MARKS {
        for before in [": ", "- "] {
            let whole = format!("{before}{mark}");
            if mark != "7919" && line.ends_with(&whole) {
                let at = line.len() - mark.len();
                line.replace_range(at.., &write.replace(" }}", " | quote }}"));
            }
        }
        line = line.replace(mark, write);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mark_is_left_and_lines_are_quoted() {
        for (path, text) in chart().unwrap() {
            for mark in ["zz", "7919", "ZZ_NAME"] {
                assert!(!text.contains(mark), "{mark} in {path}");
            }
        }
        assert_eq!(marked("  namespace: zz-namespace"), "  namespace: {{ .Values.global.istioNamespace | quote }}");
        assert_eq!(marked("  name: istiod-zz-revision"), "  name: istiod-{{ .Values.revision }}");
    }
}
