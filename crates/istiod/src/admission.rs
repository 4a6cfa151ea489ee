//! Webhooks: the API server asks before it stores a pod (`/inject`) or a resource of Istio's (`/validate`).

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh::Snapshot;
use serde_json::{Value, json};
use sources::Loaded;
use tokio::sync::watch;

use crate::tls::Secured;
use crate::verdict::{Judgement, judge, warnings};

/// The largest question; an object of Kubernetes has 1.5 MiB at most, and a question may hold two.
const MAX_BODY: usize = 8 << 20;

/// What the answers depend on.
#[derive(Debug)]
pub(crate) struct Admission {
    /// What istiod was started with.
    pub(crate) injector: injector::Options,
    /// The mesh: its configuration and its ProxyConfigs are about pods as they are made.
    pub(crate) loaded: watch::Receiver<Loaded>,
}

impl Admission {
    /// What templates add to a pod without wishes of its own.
    pub(crate) fn templates(&self) -> Result<std::collections::BTreeMap<String, String>, String> {
        self.options().map(|options| injector::templates(&options))
    }

    fn options(&self) -> Result<injector::Options, String> {
        configured(self.injector.clone(), &self.loaded.borrow().snapshot)
    }
}

/// The options with what the mesh says now.
fn configured(options: injector::Options, mesh: &Snapshot) -> Result<injector::Options, String> {
    let config = serde_json::to_string(mesh.mesh_config()).map_err(|e| e.to_string())?;
    let mut options = options.with_mesh_config(&config)?;
    options.proxy_configs = mesh.proxy_configs().to_vec();
    Ok(options)
}

/// Serves connections until there are no more.
pub(crate) async fn serve(connections: impl Stream<Item = std::io::Result<Secured>>, admission: Arc<Admission>) {
    let mut connections = std::pin::pin!(connections);
    while let Some(connection) = connections.next().await {
        let Ok(stream) = connection else { continue };
        let admission = admission.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let admission = admission.clone();
                async move { Ok::<_, Infallible>(answer(&admission, request).await) }
            });
            // The API server's own matter when it breaks off.
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(admission: &Admission, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let plain = |status, text: &str| {
        let mut response = Response::new(Full::from(text.to_owned()));
        *response.status_mut() = status;
        response
    };
    let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "the question is too long or incomplete\n");
    };
    let Ok(review) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
        return plain(StatusCode::BAD_REQUEST, "this is not JSON\n");
    };
    let question = &review["request"];
    if review["apiVersion"] != "admission.k8s.io/v1" || !question["uid"].is_string() {
        return plain(StatusCode::BAD_REQUEST, "this is not an AdmissionReview of admission.k8s.io/v1\n");
    }
    // Istio's webhooks may name cluster and network behind the path.
    let mut response = match path.split('/').nth(1) {
        Some("inject") => match admission.options() {
            Ok(options) => inject(question, &options),
            Err(reason) => refused(&format!("the mesh's configuration cannot be used: {reason}")),
        },
        Some("validate") => validate(question),
        _ => return plain(StatusCode::NOT_FOUND, "the pages here are /inject and /validate\n"),
    };
    response["uid"] = question["uid"].clone();
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    let mut response = Response::new(Full::from(answer.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn refused(message: &str) -> Value {
    json!({"allowed": false, "status": {"code": 400, "reason": "BadRequest", "message": message}})
}

/// The pod with a sidecar, as a patch.
fn inject(question: &Value, options: &injector::Options) -> Value {
    let mut pod = question["object"].clone();
    pod["kind"] = "Pod".into();
    pod["apiVersion"] = "v1".into();
    // A pod that a controller makes is not named yet, nor in its namespace.
    if pod["metadata"]["namespace"].is_null() {
        pod["metadata"]["namespace"] = question["namespace"].clone();
    }
    match injector::inject(&pod, options) {
        Err(error) => refused(&error.to_string()),
        Ok(injected) if injected == pod => json!({"allowed": true}),
        Ok(injected) => {
            let patch = json!([
                {"op": "replace", "path": "/metadata", "value": injected["metadata"]},
                {"op": "replace", "path": "/spec", "value": injected["spec"]},
            ]);
            json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())})
        }
    }
}

/// Whether a resource of Istio's can be in force. What is not built yet, and what is probably not meant so, is said as a
/// warning: the API server shows it to whoever applied the resource.
fn validate(question: &Value) -> Value {
    let object = &question["object"];
    if question["operation"] == "DELETE" || object.is_null() {
        return json!({"allowed": true});
    }
    let namespace = question["namespace"].as_str().unwrap_or_default();
    let Judgement { refused: reasons, unbuilt } = judge(object, namespace);
    if !reasons.is_empty() {
        return refused(&reasons.join("; "));
    }
    let warnings: Vec<String> = unbuilt.into_iter().chain(warnings(object, namespace)).collect();
    json!({"allowed": true, "warnings": warnings})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(object: Value) -> Value {
        json!({"uid": "u", "operation": "CREATE", "namespace": "prod", "object": object})
    }

    #[test]
    fn a_pod_comes_back_with_a_sidecar() {
        let pod = json!({"metadata": {"generateName": "pay-v1-5d-"}, "spec": {"containers": [{"name": "app"}]}});
        let answer = inject(&question(pod.clone()), &injector::Options::default());
        let patch = STANDARD.decode(answer["patch"].as_str().unwrap()).unwrap();
        let patch: Value = serde_json::from_slice(&patch).unwrap();
        assert_eq!(patch[1]["path"], "/spec");
        let names: Vec<&Value> =
            patch[1]["value"]["initContainers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["istio-init", "istio-proxy"]);
        assert_eq!(patch[0]["value"]["labels"]["security.istio.io/tlsMode"], "istio");

        let mut out = pod.clone();
        out["metadata"]["labels"] = json!({"sidecar.istio.io/inject": "false"});
        assert_eq!(inject(&question(out), &injector::Options::default()), json!({"allowed": true}));
        let mut bad = pod;
        bad["metadata"]["annotations"] = json!({"sidecar.istio.io/interceptionMode": "TPROXY"});
        let answer = inject(&question(bad), &injector::Options::default());
        assert_eq!(answer["allowed"], false);
        assert!(answer["status"]["message"].as_str().unwrap().contains("interceptionMode"), "{answer}");
    }

    #[test]
    fn the_mesh_has_its_word_about_a_pod() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
            data: {mesh: \"defaultConfig: {tracing: {sampling: 50}}\"}\n---\n\
            apiVersion: networking.istio.io/v1beta1\nkind: ProxyConfig\nmetadata: {name: a, namespace: prod}\n\
            spec: {concurrency: 3, environmentVariables: {COLOUR: blue}}\n";
        let documents = istio_api::yaml::parse(text).unwrap();
        let read = |d| istio_api::read(d, "default").unwrap_or_else(|e| panic!("{e:?}"));
        let resources: Vec<istio_api::Resource> = documents.iter().filter_map(read).collect();
        let options = configured(injector::Options::default(), &Snapshot::build(&resources)).unwrap();
        let pod = json!({"metadata": {"name": "pay"}, "spec": {"containers": [{"name": "app"}]}});
        let answer = inject(&question(pod), &options);
        let patch = STANDARD.decode(answer["patch"].as_str().unwrap_or_else(|| panic!("{answer}"))).unwrap();
        let patch: Value = serde_json::from_slice(&patch).unwrap();
        let sidecar =
            patch[1]["value"]["initContainers"].as_array().unwrap().iter().find(|c| c["name"] == "istio-proxy");
        let env = sidecar.unwrap()["env"].to_string();
        assert!(env.contains("COLOUR") && env.contains("sampling") && env.contains("\\\"concurrency\\\":3"), "{env}");
    }

    #[test]
    fn a_bad_resource_is_refused_with_its_field() {
        let object = |spec: Value| json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "pay"}, "spec": spec});
        let route = json!([{"route": [{"destination": {"host": "pay"}}]}]);
        let good = validate(&question(object(json!({"hosts": ["pay"], "http": route}))));
        assert_eq!(good["allowed"], true, "{good}");
        let bad = validate(&question(object(json!({"hosts": ["pay"], "http": [{"route": [{"destination": {}}]}]}))));
        let message = bad["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("spec.http.0.route.0.destination.host: "), "{message}");
        let unknown = validate(&question(object(json!({"hosts": ["pay"], "htp": route}))));
        assert!(unknown["status"]["message"].as_str().unwrap().contains("did you mean \"http\""), "{unknown}");
        let old = json!([{"match": [{"uri": {"prefix": "/"}}], "route": [{"destination": {"host": "pay"}}]},
            {"match": [{"uri": {"prefix": "/"}}], "route": [{"destination": {"host": "late"}}]}]);
        let surprising = validate(&question(object(json!({"hosts": ["pay"], "http": old}))));
        let warnings = surprising["warnings"].to_string();
        assert!(surprising["allowed"] == true && warnings.contains("IST0130"), "{surprising}");
        let mut delete = question(Value::Null);
        delete["operation"] = "DELETE".into();
        assert_eq!(validate(&delete)["allowed"], true);
    }
}
