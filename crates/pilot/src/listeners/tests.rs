//! Listeners that a Sidecar opens, and what the mesh does with the unknown.

use serde_json::{Value, json};

use crate::Resource;
use crate::sidecar::tests::{mesh, proxy};

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: app-1, namespace: prod, labels: {app: pay}}
spec: {containers: [{name: app}]}
status: {podIP: 10.1.0.9}
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: prod}
spec: {clusterIP: 10.96.0.5, selector: {app: pay}, ports: [{name: http, port: 80}, {name: http-admin, port: 8080}]}
---
"#;

fn all(text: &str) -> Vec<Resource> {
    crate::listeners(&mesh(&format!("{POD}{text}")), &proxy("prod", Value::Null))
}

fn named(listeners: &[Resource], name: &str) -> Option<Value> {
    listeners.iter().find(|l| l.name == name).map(|l| envoy_api::any_to_json(&l.body))
}

fn sidecar(spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s, namespace: prod}}\nspec: {spec}\n")
}

fn mode(mode: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: m, namespace: prod}}\n\
         spec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

const TLS: &str = "tls: {mode: MUTUAL, serverCertificate: /a, privateKey: /b, caCertificates: /c}";

/// Transport, whose TLS, and whether it is HTTP, of the chains of a port.
fn chains(listener: &Value, port: u16) -> Vec<(String, String, bool)> {
    let chains = listener["filter_chains"].as_array().into_iter().flatten();
    chains
        .filter(|c| c["filter_chain_match"]["destination_port"] == port)
        .map(|c| {
            let secret = "/transport_socket/typed_config/common_tls_context/tls_certificate_sds_secret_configs/0/name";
            (
                c["filter_chain_match"]["transport_protocol"].as_str().unwrap_or_default().to_owned(),
                c.pointer(secret).and_then(Value::as_str).unwrap_or_default().to_owned(),
                c["filters"].to_string().contains("http_connection_manager"),
            )
        })
        .collect()
}

#[test]
fn tls_of_callers_counts_where_the_meshs_is_off() {
    let text = |protocol: &str, how: &str| {
        sidecar(&format!("{{ingress: [{{port: {{number: 8443, protocol: {protocol}, name: a}}, {TLS}}}]}}"))
            + &mode(how)
    };
    let of = |protocol: &str, how: &str| {
        chains(&named(&all(&text(protocol, how)), "virtualInbound").expect("a listener"), 8443)
    };
    let own = |http| vec![("tls".to_owned(), "file-cert:/a~/b".to_owned(), http)];
    assert_eq!(of("HTTPS", "DISABLE"), own(true));
    assert_eq!(of("TLS", "DISABLE"), own(false));
    // Elsewhere the port is the mesh's; nobody else's TLS ends there.
    for how in ["STRICT", "PERMISSIVE"] {
        let found = of("HTTPS", how);
        assert!(
            !found.is_empty() && found.iter().all(|(_, secret, _)| !secret.starts_with("file")),
            "{how}: {found:?}"
        );
        let plain = found.iter().any(|(transport, ..)| transport == "raw_buffer");
        assert_eq!(plain, how == "PERMISSIVE", "{how}: {found:?}");
    }
    let listeners = all(&text("HTTPS", "DISABLE"));
    let whole = named(&listeners, "virtualInbound").expect("a listener").to_string();
    assert!(whole.contains("\"require_client_certificate\":true") && whole.contains("file-root:/c"), "{whole}");
    assert!(whole.contains("10.1.0.9_8443"), "the chain has the pod's address in its name");
}

#[test]
fn a_port_without_interception_is_a_listener_of_its_own() {
    let text = |bind: &str| {
        let of = "captureMode: NONE, defaultEndpoint: \"127.0.0.1:9000\"";
        sidecar(&format!("{{ingress: [{{port: {{number: 8080, protocol: HTTP, name: a}}, {bind}{of}}}]}}"))
    };
    for (bind, address) in [("", "10.1.0.9"), ("bind: 127.0.0.1, ", "127.0.0.1")] {
        let listeners = all(&(text(bind) + &mode("STRICT")));
        let own = named(&listeners, &format!("{address}_8080")).expect("a listener of its own");
        assert_eq!(own["address"]["socket_address"], json!({"address": address, "port_value": 8080}));
        assert!(own.get("bind_to_port").is_none_or(|bound| *bound == true) && own["traffic_direction"] == "INBOUND");
        assert!(!own.to_string().contains("original_dst"), "nobody was turned to it");
        // The mesh's mTLS is asked for here as anywhere.
        assert_eq!(chains(&own, 8080), [("tls".to_owned(), "default".to_owned(), true)]);
        assert!(chains(&named(&listeners, "virtualInbound").expect("it is there"), 8080).is_empty());
    }
}

#[test]
fn a_place_takes_what_its_protocol_says() {
    let of = |egress: &str, name: &str| {
        let listeners = all(&sidecar(&format!("{{egress: [{{{egress}, hosts: [\"./*\"]}}]}}")));
        named(&listeners, name)
            .unwrap_or_else(|| panic!("no {name}: {:?}", listeners.iter().map(|l| &l.name).collect::<Vec<_>>()))
    };
    let port = |number: u16, protocol: &str| format!("port: {{number: {number}, protocol: {protocol}, name: a}}");
    let unix = of(&format!("{}, bind: \"unix:///a\"", port(0, "HTTP")), "unix:///a_0");
    assert_eq!(unix["address"]["pipe"]["path"], "/a");
    assert!(unix.to_string().contains("\"route_config_name\":\"unix:///a\"") && unix.get("bind_to_port").is_none());
    let http = of(&format!("{}, bind: 10.9.9.9", port(80, "HTTP")), "10.9.9.9_80");
    assert_eq!((&http["bind_to_port"], http["filter_chains"].as_array().map(Vec::len)), (&json!(false), Some(1)));
    assert!(http["filter_chains"][0].get("filter_chain_match").is_none() && http.get("default_filter_chain").is_none());
    let bytes = of(&format!("{}, bind: 10.9.9.9, captureMode: NONE", port(80, "TCP")), "10.9.9.9_80");
    assert!(
        bytes.to_string().contains("outbound|80||pay.prod.svc.cluster.local") && !bytes.to_string().contains("rds")
    );
    // A service of two ports: nobody says which is meant.
    let any = of(&format!("{}, bind: \"unix://@a\"", port(0, "TCP")), "unix://@a_0");
    assert!(any.to_string().contains("BlackHoleCluster"), "{any}");
    let proxy = of(&port(3128, "HTTP_PROXY"), "0.0.0.0_3128");
    assert_eq!(proxy["bind_to_port"], false);
    // Without a port it is there for each port of the services.
    for number in [80, 8080] {
        assert!(of("captureMode: NONE", &format!("127.0.0.1_{number}")).get("bind_to_port").is_none());
    }
}

#[test]
fn hosts_of_all_ports_stand_together_where_the_port_says_nothing() {
    let spec = r#"{egress: [{port: {number: 0, protocol: HTTP, name: a}, bind: "unix:///a", hosts: ["./*"]}]}"#;
    let snapshot = mesh(&format!("{POD}{}", sidecar(spec)));
    let client = proxy("prod", Value::Null);
    let found = crate::routes(&snapshot, &client, &["unix:///a".to_owned(), "unix:///b".to_owned(), "80".to_owned()]);
    let table = named(&found, "unix:///a").expect("routes");
    assert!(table.get("ignore_port_in_host_matching").is_none_or(|ignored| *ignored == false));
    let domains = |name: &str| {
        let hosts = table["virtual_hosts"].as_array().into_iter().flatten();
        let host = hosts.filter(|h| h["name"] == name).find_map(|h| h["domains"].as_array());
        host.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, second) = (domains("pay.prod.svc.cluster.local:80"), domains("pay.prod.svc.cluster.local:8080"));
    for wanted in ["pay", "pay:80", "10.96.0.5"] {
        assert!(first.contains(&wanted.to_owned()), "{wanted}: {first:?}");
    }
    assert!(second.contains(&"pay:8080".to_owned()) && !second.contains(&"pay".to_owned()), "{second:?}");
    assert_eq!(named(&found, "80").expect("routes")["ignore_port_in_host_matching"], true);
}

#[test]
fn names_of_unknown_hosts_are_looked_up_where_the_mesh_says_so() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
                data: {mesh: \"outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}\"}\n";
    let snapshot = mesh(&format!("{POD}{text}"));
    let client = proxy("prod", Value::Null);
    let clusters = crate::clusters(&snapshot, &client);
    let cluster = named(&clusters, "AllowAnyDynamicDNSCluster").expect("a cluster").to_string();
    assert!(cluster.contains("allow_any_dfp_dns_cache") && cluster.contains("\"max_hosts\":1024"), "{cluster}");
    let listeners = crate::listeners(&snapshot, &client);
    let unknown = named(&listeners, "virtualOutbound").expect("it is there");
    let names: Vec<&Value> = unknown["filter_chains"].as_array().into_iter().flatten().map(|c| &c["name"]).collect();
    assert_eq!(
        names,
        ["virtualOutbound-blackhole", "virtualOutbound-catchall-tcp-http", "virtualOutbound-catchall-tcp"]
    );
    assert!(unknown["filter_chains"][2].to_string().contains("PassthroughCluster"));
    assert!(named(&listeners, "0.0.0.0_80").expect("it is there").to_string().contains("dynamic_forward_proxy"));
    let routes = crate::routes(&snapshot, &client, &["80".to_owned()]);
    let last = named(&routes, "80").expect("routes")["virtual_hosts"].as_array().and_then(|all| all.last().cloned());
    assert_eq!(last.expect("hosts")["name"], "allow_any_dynamic_dns");
}
