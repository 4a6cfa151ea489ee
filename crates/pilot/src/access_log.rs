//! Access logs as the mesh configuration asks for them.

use istio_api::mesh::MeshConfig;
use serde_json::{Map, Value, json};

const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
\"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

const JSON: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// The log of every request or connection; none when the mesh has no access log file.
pub(crate) fn of_mesh(mesh: &MeshConfig) -> Option<Value> {
    let path = mesh.access_log_file.as_deref().filter(|path| !path.is_empty())?;
    Some(as_the_mesh_says(mesh, path))
}

/// The provider `envoy`: the mesh's format, on standard output.
pub(crate) fn on_standard_output(mesh: &MeshConfig) -> Value {
    as_the_mesh_says(mesh, "/dev/stdout")
}

fn as_the_mesh_says(mesh: &MeshConfig, path: &str) -> Value {
    let given = mesh.access_log_format.as_deref().filter(|format| !format.is_empty());
    if mesh.access_log_encoding.as_deref() != Some("JSON") {
        return file(path, given, None);
    }
    let labels = given.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let labels = labels.and_then(|value| value.as_object().cloned());
    file(path, None, Some(&labels.unwrap_or_else(|| JSON.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect())))
}

/// A log to a file: an object where there are labels, else a text, Istio's if none is given.
pub(crate) fn file(path: &str, text: Option<&str>, labels: Option<&Map<String, Value>>) -> Value {
    let format = match labels {
        Some(labels) => json!({"jsonFormat": labels, "jsonFormatOptions": {}}),
        None => json!({"textFormatSource": {"inlineString": text.unwrap_or(TEXT)}}),
    };
    json!({
        "name": "envoy.access_loggers.file",
        "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "logFormat": format,
            "path": path
        }
    })
}

/// The log of a listener itself: connections for which it had no filter chain.
pub(crate) fn of_listener(mesh: &MeshConfig) -> Option<Value> {
    let mut log = of_mesh(mesh).filter(|_| !mesh.disable_envoy_listener_log)?;
    log["filter"] = json!({"responseFlagFilter": {"flags": ["NR"]}});
    Some(log)
}
