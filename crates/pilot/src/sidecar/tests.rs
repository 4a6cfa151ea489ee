//! What proxies are sent under Sidecars, ServiceEntries and mesh-wide policies.

use envoy_api::envoy::config::core::v3::Node;
use istio_api::Resource as Object;
use istio_api::yaml;
use mesh::Snapshot;
use serde_json::Value;

use crate::{Proxy, Resource};

pub(crate) fn mesh(text: &str) -> Snapshot {
    let documents = yaml::parse(text).unwrap();
    let read = |d| istio_api::read(d, "default").unwrap_or_else(|e| panic!("{e:?}"));
    let resources: Vec<Object> = documents.iter().filter_map(read).collect();
    Snapshot::build(&resources)
}

pub(crate) fn proxy(namespace: &str, metadata: Value) -> Proxy {
    let node = Node {
        id: format!("sidecar~10.1.0.9~app-1.{namespace}~{namespace}.svc.cluster.local"),
        metadata: envoy_api::message_from_json(metadata).ok(),
        ..Node::default()
    };
    Proxy::from_node(&node).unwrap()
}

fn names(of: &[Resource]) -> Vec<&str> {
    of.iter().map(|r| r.name.as_str()).filter(|n| !n.starts_with("virtual")).collect()
}

fn json(of: &[Resource], name: &str) -> Value {
    let found = of.iter().find(|r| r.name == name).unwrap_or_else(|| panic!("no {name} in {:?}", names(of)));
    envoy_api::any_to_json(&found.body)
}

fn hosts(snapshot: &Snapshot, proxy: &Proxy, port: &str) -> Vec<String> {
    let routes = crate::routes(snapshot, proxy, &[port.to_owned()]);
    let table = json(&routes, port);
    table["virtual_hosts"].as_array().unwrap().iter().map(|h| h["name"].as_str().unwrap().to_owned()).collect()
}

fn outbound(of: &[Resource]) -> Vec<&str> {
    of.iter().map(|r| r.name.as_str()).filter(|n| n.starts_with("outbound")).collect()
}

const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: prod}
spec: {clusterIP: 10.96.0.5, selector: {app: pay}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: prod}
spec: {clusterIP: 10.96.0.6, ports: [{name: tcp, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: mail, namespace: other}
spec: {clusterIP: 10.96.0.7, ports: [{name: http, port: 80}, {name: http-admin, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: hidden, namespace: other, annotations: {networking.istio.io/exportTo: "."}}
spec: {clusterIP: 10.96.0.8, ports: [{name: http, port: 80}]}
---
"#;

fn sidecar(spec: &str) -> String {
    let head = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: prod}\nspec:";
    format!("{SHOP}{head} {spec}\n")
}

#[test]
fn without_a_sidecar_all_that_is_exported_is_seen_and_unlike_protocols_share_a_port() {
    let snapshot = mesh(SHOP);
    let client = proxy("prod", Value::Null);
    let listeners = crate::listeners(&snapshot, &client);
    assert_eq!(names(&listeners), ["0.0.0.0_80", "0.0.0.0_81", "10.96.0.6_80"]);
    let expected = ["mail.other.svc.cluster.local:80", "pay.prod.svc.cluster.local:80", "allow_any"];
    assert_eq!(hosts(&snapshot, &client, "80"), expected);
    let other = proxy("other", Value::Null);
    assert!(hosts(&snapshot, &other, "80").contains(&"hidden.other.svc.cluster.local:80".to_owned()));
}

#[test]
fn egress_hosts_are_borders() {
    for (patterns, expected) in [
        (r#"["./*"]"#, vec!["outbound|80||pay.prod.svc.cluster.local", "outbound|80||db.prod.svc.cluster.local"]),
        (
            r#"["other/mail.other.svc.cluster.local"]"#,
            vec!["outbound|80||mail.other.svc.cluster.local", "outbound|81||mail.other.svc.cluster.local"],
        ),
        (r#"["~/*"]"#, vec![]),
        (r#"["*/*", "~other/*", "~prod/db.prod.svc.cluster.local"]"#, vec!["outbound|80||pay.prod.svc.cluster.local"]),
        (
            r#"["*/*.prod.svc.cluster.local", "~prod/pay.prod.svc.cluster.local"]"#,
            vec!["outbound|80||db.prod.svc.cluster.local"],
        ),
    ] {
        let snapshot = mesh(&sidecar(&format!("{{egress: [{{hosts: {patterns}}}]}}")));
        let client = proxy("prod", Value::Null);
        assert_eq!(outbound(&crate::clusters(&snapshot, &client)), expected, "{patterns}");
        let elsewhere = proxy("other", Value::Null);
        assert_eq!(outbound(&crate::clusters(&snapshot, &elsewhere)).len(), 5, "{patterns}: only its own namespace");
    }
}

#[test]
fn a_listener_of_a_port_takes_that_port_and_the_last_takes_the_rest() {
    let spec = r#"
  egress:
  - {port: {number: 80, protocol: HTTP, name: web}, hosts: ["other/*"]}
  - {port: {number: 9090, protocol: HTTP, name: own}, bind: 127.0.0.1, captureMode: NONE, hosts: ["./*"]}
  - hosts: ["./*", "other/*"]"#;
    let snapshot = mesh(&sidecar(spec));
    let client = proxy("prod", Value::Null);
    let listeners = crate::listeners(&snapshot, &client);
    assert_eq!(names(&listeners), ["0.0.0.0_80", "0.0.0.0_81", "10.96.0.6_80", "127.0.0.1_9090"]);
    assert_eq!(hosts(&snapshot, &client, "80"), ["mail.other.svc.cluster.local:80", "allow_any"]);
    let own = json(&listeners, "127.0.0.1_9090");
    assert!(own.get("bind_to_port").is_none_or(|b| b == true), "it has a socket: {own}");
    assert_eq!(json(&listeners, "0.0.0.0_80")["bind_to_port"], false);
}

#[test]
fn the_narrow_sidecar_counts() {
    let text = sidecar("{egress: [{hosts: [\"other/*\"]}]}")
        + r#"---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: mine, namespace: prod}
spec: {workloadSelector: {labels: {app: mine}}, egress: [{hosts: ["./*"]}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: all, namespace: istio-system}
spec: {egress: [{hosts: ["~/*"]}]}
"#;
    let snapshot = mesh(&text);
    let count = |namespace: &str, labels: Value| {
        let client = proxy(namespace, serde_json::json!({"LABELS": labels}));
        outbound(&crate::clusters(&snapshot, &client)).len()
    };
    assert_eq!(count("prod", serde_json::json!({"app": "mine"})), 2, "selected");
    assert_eq!(count("prod", Value::Null), 2, "of the namespace");
    assert_eq!(count("third", Value::Null), 0, "of the root namespace");
}

#[test]
fn unknown_traffic_goes_where_the_sidecar_or_the_mesh_says() {
    let policy = |text: &str| {
        format!(
            "{SHOP}apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: \"{text}\"}}\n"
        )
    };
    let egress = "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: mail.other.svc.cluster.local, port: {number: 81}}}}";
    for (text, cluster, host) in [
        (SHOP.to_owned(), "PassthroughCluster", "allow_any"),
        (policy("outboundTrafficPolicy: {mode: REGISTRY_ONLY}"), "BlackHoleCluster", "block_all"),
        (policy("outboundTrafficPolicy: {mode: ALLOW_ANY}"), "PassthroughCluster", "allow_any"),
        (sidecar("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"), "BlackHoleCluster", "block_all"),
        (sidecar(egress), "outbound|81||mail.other.svc.cluster.local", "allow_any"),
    ] {
        let snapshot = mesh(&text);
        let client = proxy("prod", Value::Null);
        let listeners = crate::listeners(&snapshot, &client);
        let all = json(&listeners, "virtualOutbound");
        let filters = all["filter_chains"][1]["filters"].as_array().unwrap();
        assert_eq!(filters.last().unwrap()["typed_config"]["cluster"], cluster, "{text}");
        assert_eq!(hosts(&snapshot, &client, "80").last().unwrap(), host, "{text}");
    }
}

#[test]
fn ingress_listeners_replace_what_services_say() {
    let pod = r#"---
apiVersion: v1
kind: Pod
metadata: {name: app-1, namespace: prod, labels: {app: pay}}
spec: {containers: [{name: app}]}
status: {podIP: 10.1.0.9}
"#;
    let spec = r#"
  inboundConnectionPool: {http: {http2MaxRequests: 7}}
  ingress:
  - {port: {number: 80, protocol: HTTP, name: web}, defaultEndpoint: "127.0.0.1:8080"}
  - {port: {number: 81, protocol: TCP, name: raw}, connectionPool: {tcp: {maxConnections: 3}}}"#;
    let snapshot = mesh(&(sidecar(spec) + pod));
    let clusters = crate::clusters(&snapshot, &proxy("prod", Value::Null));
    let web = json(&clusters, "inbound|80||");
    let address = &web["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"];
    assert_eq!((&address["address"], &address["port_value"]), (&"127.0.0.1".into(), &8080.into()));
    assert_eq!(web["circuit_breakers"]["thresholds"][0]["max_requests"], 7);
    let raw = json(&clusters, "inbound|81||");
    assert_eq!(
        raw["circuit_breakers"]["thresholds"][0]["max_connections"], 3,
        "its own pool goes before the common one"
    );
}

#[test]
fn what_has_no_address_of_its_own_shares_the_listener_of_its_port() {
    let entries = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: prod}
spec: {hosts: [web.example], ports: [{number: 443, name: http, protocol: HTTP}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tls, namespace: prod}
spec: {hosts: ["*.bank.example"], ports: [{number: 443, name: tls, protocol: TLS}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: net, namespace: prod}
spec: {hosts: [net.example], addresses: [10.7.0.0/16, 10.8.1.1], ports: [{number: 443, name: tcp, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: rest, namespace: prod}
spec: {hosts: [rest.example], ports: [{number: 443, name: tcp, protocol: TCP}], resolution: DNS, endpoints: [{address: a.example}]}
"#;
    let snapshot = mesh(entries);
    let listeners = crate::listeners(&snapshot, &proxy("prod", Value::Null));
    assert_eq!(names(&listeners), ["0.0.0.0_443", "10.8.1.1_443"]);
    let shared = json(&listeners, "0.0.0.0_443");
    let matches: Vec<String> =
        shared["filter_chains"].as_array().unwrap().iter().map(|c| c["filter_chain_match"].to_string()).collect();
    assert!(matches.iter().any(|m| m.contains("*.bank.example")), "{matches:?}");
    assert!(matches.iter().any(|m| m.contains("10.7.0.0")), "{matches:?}");
    assert!(matches.iter().any(|m| m.contains("http/1.1")), "{matches:?}");
    let filters = shared["default_filter_chain"]["filters"].to_string();
    assert!(filters.contains("outbound|443||rest.example"), "{filters}");

    // Who asks the sidecar's DNS dials an address of the mesh's own.
    let asks = proxy("prod", serde_json::json!({"DNS_CAPTURE": "true"}));
    let with_dns = crate::listeners(&snapshot, &asks);
    let own: Vec<&str> = names(&with_dns).into_iter().filter(|n| n.starts_with("240.240.")).collect();
    assert_eq!(own.len(), 1, "the TCP entry; HTTP is told by its host: {:?}", names(&with_dns));
    let table = json(&crate::name_table(&snapshot, &asks), "");
    assert!(table.to_string().contains("240.240."), "{table}");
    assert!(!json(&crate::name_table(&snapshot, &proxy("prod", Value::Null)), "").to_string().contains("240.240."));
}

#[test]
fn headless_pods_have_names_listeners_and_no_way_to_themselves() {
    let text = r#"
apiVersion: v1
kind: Service
metadata: {name: store, namespace: prod}
spec: {clusterIP: None, selector: {app: store}, ports: [{name: tcp, port: 7000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: store-0, namespace: prod, labels: {app: store}}
spec: {hostname: store-0, subdomain: store, containers: [{name: app}]}
status: {podIP: 10.1.0.1, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: app-1, namespace: prod, labels: {app: store}}
spec: {hostname: store-1, subdomain: store, containers: [{name: app}]}
status: {podIP: 10.1.0.9, conditions: [{type: Ready, status: "False"}]}
"#;
    let snapshot = mesh(text);
    let me = proxy("prod", Value::Null);
    assert_eq!(names(&crate::listeners(&snapshot, &me)), ["10.1.0.1_7000"]);
    let table = json(&crate::name_table(&snapshot, &me), "")["table"].clone();
    assert_eq!(table["store-0.store.prod.svc.cluster.local"]["ips"][0], "10.1.0.1");
    assert_eq!(table["store.prod.svc.cluster.local"]["ips"].as_array().unwrap().len(), 1, "one is not ready");
    let all = text.replace("clusterIP: None", "clusterIP: None, publishNotReadyAddresses: true");
    let table = json(&crate::name_table(&mesh(&all), &me), "")["table"].clone();
    assert_eq!(table["store.prod.svc.cluster.local"]["ips"].as_array().unwrap().len(), 2);
}

#[test]
fn aliases_and_services_without_selector_lead_on() {
    let text = SHOP.to_owned()
        + r#"
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: prod}
spec: {type: ExternalName, externalName: pay.prod.svc.cluster.local, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: db, namespace: prod}
subsets: [{addresses: [{ip: 192.0.2.1}], notReadyAddresses: [{ip: 192.0.2.2}], ports: [{name: tcp, port: 5432}]}]
"#;
    let snapshot = mesh(&text);
    let client = proxy("prod", Value::Null);
    let routes = json(&crate::routes(&snapshot, &client, &["80".to_owned()]), "80");
    let domains =
        routes["virtual_hosts"].as_array().unwrap().iter().find(|h| h["name"] == "pay.prod.svc.cluster.local:80");
    assert!(domains.unwrap()["domains"].to_string().contains("alias.prod.svc.cluster.local"), "{domains:?}");
    let wanted = ["outbound|80||db.prod.svc.cluster.local".to_owned()];
    let endpoints = json(&crate::endpoints(&snapshot, &client, &wanted), &wanted[0]).to_string();
    assert!(
        endpoints.contains("192.0.2.1") && endpoints.contains("5432") && !endpoints.contains("192.0.2.2"),
        "{endpoints}"
    );
}

#[test]
fn each_namespace_has_its_own_declaration_of_a_host() {
    let entry = |namespace: &str, ip: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: x, namespace: {namespace}}}\nspec: {{hosts: [x.example], \
             exportTo: [\".\"], resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: {ip}}}]}}\n"
        )
    };
    let snapshot = mesh(&(entry("prod", "192.0.2.1") + &entry("other", "192.0.2.2")));
    let wanted = ["outbound|80||x.example".to_owned()];
    for (namespace, ip) in [("prod", "192.0.2.1"), ("other", "192.0.2.2")] {
        let found = json(&crate::endpoints(&snapshot, &proxy(namespace, Value::Null), &wanted), &wanted[0]);
        assert!(found.to_string().contains(ip), "{namespace}: {found}");
        assert_eq!(outbound(&crate::clusters(&snapshot, &proxy(namespace, Value::Null))), [wanted[0].as_str()]);
    }
    assert!(outbound(&crate::clusters(&snapshot, &proxy("third", Value::Null))).is_empty());
}

fn with_mesh(text: &str) -> Snapshot {
    let head =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    ";
    mesh(&format!("{SHOP}{head}{text}\n"))
}

#[test]
fn the_mesh_configuration_reaches_what_it_is_about() {
    let client = proxy("prod", Value::Null);
    let listeners = |text: &str| crate::listeners(&with_mesh(text), &client);
    let clusters = |text: &str| crate::clusters(&with_mesh(text), &client);
    let pay = "outbound|80||pay.prod.svc.cluster.local";
    let shown = |of: &[Resource], name: &str| json(of, name).to_string();

    let logged = shown(
        &listeners("{accessLogFile: /dev/stdout, accessLogEncoding: JSON, accessLogFormat: '{\"a\": \"%PROTOCOL%\"}'}"),
        "0.0.0.0_80",
    );
    assert!(
        logged.contains("/dev/stdout") && logged.contains("json_format") && logged.contains("%PROTOCOL%"),
        "{logged}"
    );
    let both = listeners("accessLogFile: /dev/stdout");
    assert!(shown(&both, "virtualOutbound").contains("response_flag_filter"));
    let quiet = listeners("{accessLogFile: /dev/stdout, disableEnvoyListenerLog: true}");
    assert!(!shown(&quiet, "virtualOutbound").contains("response_flag_filter"));
    assert!(
        shown(&listeners("protocolDetectionTimeout: 3s"), "0.0.0.0_80").contains("\"listener_filters_timeout\":\"3s\"")
    );
    for (policy, expected) in [
        ("NONE", "\"normalize_path\":false"),
        ("BASE", "\"normalize_path\":true"),
        ("MERGE_SLASHES", "\"merge_slashes\":true"),
        ("DECODE_AND_MERGE_SLASHES", "UNESCAPE_AND_FORWARD"),
    ] {
        let manager = shown(&listeners(&format!("pathNormalization: {{normalization: {policy}}}")), "0.0.0.0_80");
        assert!(manager.contains(expected), "{policy}: {manager}");
    }

    assert_eq!(json(&clusters("connectTimeout: 2s"), pay)["connect_timeout"], "2s");
    let alive = shown(&clusters("tcpKeepalive: {time: 30s, interval: 5s, probes: 4}"), pay);
    assert!(alive.contains("\"keepalive_time\":30") && alive.contains("\"keepalive_probes\":4"), "{alive}");
    assert!(shown(&clusters("h2UpgradePolicy: UPGRADE"), pay).contains("http2_protocol_options"));
    assert!(!shown(&clusters("h2UpgradePolicy: DO_NOT_UPGRADE"), pay).contains("http2_protocol_options"));
    assert!(shown(&clusters("enableAutoMtls: true"), pay).contains("tlsMode-istio"));
    assert!(!shown(&clusters("enableAutoMtls: false"), pay).contains("tlsMode-istio"));

    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: app-1, namespace: prod}\nspec: {containers: [{name: app}]}\nstatus: {podIP: 10.1.0.9}\n";
    let names = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata: {mesh: \"{trustDomain: new, trustDomainAliases: [old]}\"}\n";
    let inbound = shown(&crate::listeners(&mesh(&format!("{SHOP}{pod}{names}")), &client), "virtualInbound");
    assert!(inbound.contains("spiffe://old/") && inbound.contains("spiffe://new/"), "{inbound}");

    for (text, counted) in [
        ("{}", true),
        ("defaultProviders: {metrics: [prometheus]}", true),
        ("defaultProviders: {metrics: []}", false),
        ("{extensionProviders: [{name: ours, prometheus: {}}], defaultProviders: {metrics: [ours]}}", true),
    ] {
        let all = listeners(text);
        assert_eq!(shown(&all, "0.0.0.0_80").contains("istio.stats"), counted, "{text}");
        let anywhere = all.iter().any(|l| json(&all, &l.name).to_string().contains("istio.stats"));
        assert_eq!(anywhere, counted, "{text}");
    }

    let own = with_mesh("defaultServiceExportTo: ['.']");
    assert_eq!(outbound(&crate::clusters(&own, &client)).len(), 2, "only its own namespace's");
}

#[test]
fn defaults_of_export_and_the_root_namespace_are_the_meshs() {
    let rules = r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: pay, namespace: prod}
spec: {hosts: [pay], http: [{directResponse: {status: 418}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: pay, namespace: prod}
spec: {host: pay, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 7s}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: mail, namespace: roots}
spec: {host: mail.other.svc.cluster.local, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 8s}}}}
"#;
    let head = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    ";
    let seen = |text: &str, namespace: &str| {
        let snapshot = mesh(&format!("{SHOP}{rules}{head}{text}\n"));
        let client = proxy(namespace, Value::Null);
        let routes = json(&crate::routes(&snapshot, &client, &["80".to_owned()]), "80").to_string();
        let clusters = crate::clusters(&snapshot, &client);
        let limit = |host: &str| json(&clusters, &format!("outbound|80||{host}"))["connect_timeout"].to_string();
        (routes.contains("418"), limit("pay.prod.svc.cluster.local"), limit("mail.other.svc.cluster.local"))
    };
    let (ten, seven, eight) = ("\"10s\"".to_owned(), "\"7s\"".to_owned(), "\"8s\"".to_owned());
    assert_eq!(seen("rootNamespace: roots", "other"), (true, seven.clone(), eight));
    assert_eq!(seen("rootNamespace: istio-system", "other").2, ten, "another namespace's rule does not count");
    let private = "{defaultVirtualServiceExportTo: ['.'], defaultDestinationRuleExportTo: ['.']}";
    assert_eq!(seen(private, "other"), (false, ten.clone(), ten.clone()));
    assert_eq!(seen(private, "prod"), (true, seven, ten));
}

#[test]
fn names_of_servers_and_places_of_endpoints_are_the_entrys() {
    let text = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vm, namespace: prod}
spec:
  hosts: [vm.example]
  location: MESH_INTERNAL
  resolution: STATIC
  subjectAltNames: ["spiffe://cluster.local/ns/prod/sa/vm"]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  endpoints:
  - {address: 192.0.2.1, locality: eu/eu-1/rack, weight: 3, labels: {security.istio.io/tlsMode: istio}, serviceAccount: vm2}
"#;
    let snapshot = mesh(text);
    let client = proxy("prod", Value::Null);
    let wanted = ["outbound|80||vm.example".to_owned()];
    let cluster = json(&crate::clusters(&snapshot, &client), &wanted[0]).to_string();
    for name in ["sa/vm\"", "sa/vm2\""] {
        assert!(cluster.contains(name), "{cluster}");
    }
    let found = json(&crate::endpoints(&snapshot, &client, &wanted), &wanted[0])["endpoints"][0].clone();
    assert_eq!((&found["locality"]["zone"], &found["locality"]["sub_zone"]), (&"eu-1".into(), &"rack".into()));
    assert_eq!(found["lb_endpoints"][0]["load_balancing_weight"], 3);
    assert_eq!(found["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"], 8080);
}

#[test]
fn a_machine_that_wants_to_register_itself_is_told_what_to_do() {
    let node = Node {
        id: "sidecar~10.1.0.9~vm-1.prod~prod.svc.cluster.local".to_owned(),
        metadata: envoy_api::message_from_json(serde_json::json!({"AUTO_REGISTER_GROUP": "vms"})).ok(),
        ..Node::default()
    };
    let said = Proxy::from_node(&node).unwrap_err().to_string();
    assert!(said.contains("WorkloadGroup vms") && said.contains("WorkloadEntry"), "{said}");
}
