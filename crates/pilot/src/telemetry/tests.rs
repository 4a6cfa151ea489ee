use serde_json::{Value, json};

use super::*;
use crate::sidecar::{self, tests::mesh};

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: zipkin, namespace: observe}
spec: {clusterIP: 10.96.0.5, selector: {app: zipkin}, ports: [{name: http, port: 9411}]}
---
apiVersion: v1
kind: Service
metadata: {name: otel, namespace: observe}
spec: {clusterIP: 10.96.0.6, ports: [{name: grpc, port: 4317}, {name: http, port: 4318}]}
"#;

fn snapshot(config: &str, telemetry: &str) -> Snapshot {
    let config = config.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{config}"
    );
    let telemetry = telemetry.trim().split("---").filter(|t| !t.trim().is_empty());
    let telemetry: String = telemetry
        .map(|spec| format!("---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\n{}\n", spec.trim()))
        .collect();
    mesh(&format!("{SERVICES}---\n{map}{telemetry}"))
}

fn proxy(metadata: Value) -> Proxy {
    let mut all = json!({"LABELS": {"app": "order", "version": "v1"}});
    all.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    sidecar::tests::proxy("shop", all)
}

fn traced(config: &str, telemetry: &str, side: Side) -> Value {
    tracing(&snapshot(config, telemetry), &proxy(json!({})), side)
}

const PROVIDERS: &str = "extensionProviders:
- name: zip
  zipkin: {service: zipkin.observe.svc.cluster.local, port: 9411, maxTagLength: 64}
- name: otel-grpc
  opentelemetry: {service: observe/otel.observe.svc.cluster.local, port: 4317, grpc: {timeout: 2s, initialMetadata: [{name: k, value: v}]}}
- name: otel-http
  opentelemetry:
    service: otel.observe.svc.cluster.local
    port: 4318
    http: {path: /v1/traces, timeout: 3s, headers: [{name: x-key, value: secret}]}
    resourceDetectors: {environment: {}}
- name: nowhere
  zipkin: {service: gone.observe.svc.cluster.local, port: 9411}
- name: file
  envoyFileAccessLog: {path: /dev/stderr, logFormat: {labels: {code: '%RESPONSE_CODE%'}}}
";

#[test]
fn without_a_provider_nothing_is_traced() {
    for (config, telemetry) in [
        ("{}", ""),
        (PROVIDERS, "metadata: {name: a, namespace: istio-system}\nspec: {tracing: [{randomSamplingPercentage: 10}]}"),
        (PROVIDERS, "metadata: {name: a, namespace: istio-system}\nspec: {tracing: [{providers: [{name: nowhere}]}]}"),
    ] {
        assert_eq!(traced(config, telemetry, Side::Client).get("provider"), None);
    }
    let one_in_ten = "metadata: {name: a, namespace: istio-system}\nspec: {tracing: [{randomSamplingPercentage: 10}]}";
    assert_eq!(traced("{}", one_in_ten, Side::Client)["randomSampling"]["value"], 10.0);
    assert_eq!(traced("{}", "", Side::Client)["randomSampling"]["value"], 1.0);
}

#[test]
fn zipkin_by_telemetry_by_default_and_by_the_older_way() {
    let wanted = json!({
        "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
        "collectorCluster": "outbound|9411||zipkin.observe.svc.cluster.local",
        "collectorEndpoint": "/api/v2/spans",
        "collectorEndpointVersion": "HTTP_JSON",
        "collectorHostname": "zipkin.observe.svc.cluster.local",
        "sharedSpanContext": false,
        "traceId128bit": true
    });
    let by_name = "metadata: {name: a, namespace: shop}
spec:
  selector: {matchLabels: {app: order}}
  tracing:
  - providers: [{name: zip}]
    randomSamplingPercentage: 100
    customTags: {b: {header: {name: x-b, defaultValue: ''}}, a: {literal: {value: one}}, c: {environment: {name: HOME}}}
    enableIstioTags: false";
    let value = traced(PROVIDERS, by_name, Side::Client);
    assert_eq!(value["provider"]["typedConfig"], wanted);
    assert_eq!(
        (value["maxPathTagLength"].as_u64(), value["randomSampling"]["value"].as_f64()),
        (Some(64), Some(100.0))
    );
    let tags = json!([
        {"tag": "a", "literal": {"value": "one"}},
        {"tag": "b", "requestHeader": {"name": "x-b"}},
        {"tag": "c", "environment": {"name": "HOME"}}
    ]);
    assert_eq!(value["customTags"], tags);

    let default = format!("{PROVIDERS}defaultProviders: {{tracing: [zip]}}\n");
    assert_eq!(traced(&default, "", Side::Server)["provider"]["typedConfig"], wanted);
    let off =
        "metadata: {name: a, namespace: shop}\nspec: {tracing: [{match: {mode: SERVER}, disableSpanReporting: true}]}";
    assert_eq!(traced(&default, off, Side::Server).get("provider"), None);
    assert_eq!(traced(&default, off, Side::Client)["provider"]["typedConfig"], wanted);
    assert_eq!(traced(&format!("{default}enableTracing: false\n"), "", Side::Client).get("provider"), None);

    let older = "defaultConfig: {tracing: {zipkin: {address: 'zipkin.observe:9411'}, sampling: 7.5}}";
    let value = traced(older, "", Side::Client);
    assert_eq!((&value["provider"]["typedConfig"], &value["randomSampling"]["value"]), (&wanted, &json!(7.5)));
    let own =
        proxy(json!({"PROXY_CONFIG": {"tracing": {"zipkin": {"address": "zipkin.observe:9411"}, "sampling": 50.0}}}));
    let value = tracing(&snapshot(older, ""), &own, Side::Client);
    assert_eq!(value["randomSampling"]["value"], 50.0);
}

#[test]
fn opentelemetry_over_grpc_and_over_http() {
    let with = |name: &str| {
        let telemetry = format!(
            "metadata: {{name: a, namespace: istio-system}}\nspec: {{tracing: [{{providers: [{{name: {name}}}]}}]}}"
        );
        traced(PROVIDERS, &telemetry, Side::Client)["provider"]["typedConfig"].clone()
    };
    let grpc = with("otel-grpc");
    assert_eq!(grpc["serviceName"], "order.shop");
    let wanted = json!({
        "envoyGrpc": {"authority": "otel.observe.svc.cluster.local", "clusterName": "outbound|4317||otel.observe.svc.cluster.local"},
        "timeout": "2s",
        "initialMetadata": [{"key": "k", "value": "v"}]
    });
    assert_eq!(grpc["grpcService"], wanted);
    let http = with("otel-http");
    assert_eq!(http["httpService"]["httpUri"]["uri"], "http://otel.observe.svc.cluster.local:4318/v1/traces");
    assert_eq!(http["httpService"]["requestHeadersToAdd"][0]["header"], json!({"key": "x-key", "value": "secret"}));
    assert_eq!(http["resourceDetectors"][0]["name"], "envoy.tracers.opentelemetry.resource_detectors.environment");
    // What is made is what both data planes read.
    for value in [grpc, http] {
        envoy_api::any_from_json(value).unwrap();
    }
}

#[test]
fn access_logs_by_telemetry_and_by_mesh() {
    let paths = |config: &str, telemetry: &str| -> Vec<String> {
        let logs = access_logs(&snapshot(config, telemetry), &proxy(json!({})), Side::Client);
        logs.iter().map(|log| log["typedConfig"]["path"].as_str().unwrap().to_owned()).collect()
    };
    let file = "accessLogFile: /dev/stdout\n";
    assert_eq!(paths("{}", ""), [""; 0]);
    assert_eq!(paths(file, ""), ["/dev/stdout"]);
    let envoy = "metadata: {name: a, namespace: istio-system}\nspec: {accessLogging: [{providers: [{name: envoy}]}]}";
    assert_eq!(paths("{}", envoy), ["/dev/stdout"]);
    let off =
        format!("{envoy}\n---\nmetadata: {{name: b, namespace: shop}}\nspec: {{accessLogging: [{{disabled: true}}]}}");
    assert_eq!(paths(file, &off), [""; 0]);
    let own = "metadata: {name: a, namespace: shop}\nspec: {accessLogging: [{providers: [{name: file}]}]}";
    assert_eq!(paths(PROVIDERS, own), ["/dev/stderr"]);
    assert_eq!(paths(&format!("{PROVIDERS}defaultProviders: {{accessLogging: [file]}}\n"), ""), ["/dev/stderr"]);
    let logs = access_logs(&snapshot(PROVIDERS, own), &proxy(json!({})), Side::Client);
    assert_eq!(logs[0]["typedConfig"]["logFormat"]["jsonFormat"], json!({"code": "%RESPONSE_CODE%"}));
}

#[test]
fn what_is_not_built_of_a_telemetry_is_refused_by_its_place() {
    for (spec, pointer) in [
        ("{tracing: [{useRequestIdForTraceSampling: false}]}", "/spec/tracing/0/useRequestIdForTraceSampling"),
        ("{tracing: [{disableContextPropagation: true}]}", "/spec/tracing/0/disableContextPropagation"),
        ("{tracing: [{customTags: {a: {formatter: {value: '%PATH%'}}}}]}", "/spec/tracing/0/customTags/a/formatter"),
        ("{metrics: [{overrides: [{disabled: true}]}]}", "/spec/metrics/0/overrides"),
        ("{metrics: [{reportingInterval: 5s}]}", "/spec/metrics/0/reportingInterval"),
        ("{metrics: [{providers: [{name: stackdriver}]}]}", "/spec/metrics/0/providers/0/name"),
        ("{accessLogging: [{filter: {expression: 'response.code >= 400'}}]}", "/spec/accessLogging/0/filter"),
        ("{targetRefs: [{kind: Gateway, name: g, group: gateway.networking.k8s.io}]}", "/spec/targetRefs"),
    ] {
        let snapshot = snapshot("{}", &format!("metadata: {{name: a, namespace: shop}}\nspec: {spec}"));
        let refused = crate::unsupported(&snapshot);
        assert_eq!(refused.iter().map(|r| (r.kind, r.pointer.as_str())).collect::<Vec<_>>(), [("Telemetry", pointer)]);
    }
    let good = "metadata: {name: a, namespace: shop}\nspec: {metrics: [{providers: [{name: prometheus}]}]}";
    assert_eq!(crate::unsupported(&snapshot("{}", good)), []);
}
