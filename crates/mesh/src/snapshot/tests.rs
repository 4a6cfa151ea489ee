use istio_api::yaml;

use super::*;

fn mesh(text: &str) -> Snapshot {
    Snapshot::build(&resources(text))
}

fn resources(text: &str) -> Vec<Resource> {
    let documents = yaml::parse(text).unwrap();
    documents.iter().filter_map(|d| istio_api::read(d, "default").unwrap_or_else(|e| panic!("{e:?}"))).collect()
}

const BASE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: prod}
spec:
  clusterIP: 10.96.0.5
  selector: {app: pay}
  ports: [{name: http-web, port: 80, targetPort: web}, {name: tcp-db, port: 5432}, {port: 9000}]
---
apiVersion: v1
kind: Pod
metadata:
  name: pay-v1-abc-0
  namespace: prod
  labels: {app: pay, version: v1, security.istio.io/tlsMode: istio}
  ownerReferences: [{kind: ReplicaSet, name: pay-v1-abc}]
spec:
  serviceAccountName: pay-sa
  containers: [{name: app, ports: [{name: web, containerPort: 8080}]}]
status: {podIP: 10.244.0.2, conditions: [{type: Ready, status: "True"}]}
"#;

#[test]
fn pods_become_endpoints_and_ports_speak_by_their_names() {
    let mesh = mesh(BASE);
    let service = mesh.service("pay.prod.svc.cluster.local").unwrap();
    let protocols: Vec<_> = service.ports.iter().map(|p| p.protocol).collect();
    assert_eq!(protocols, [crate::Protocol::Http, crate::Protocol::Tcp, crate::Protocol::Auto]);
    let endpoints = mesh.endpoints(&service.host, 80);
    assert_eq!((endpoints[0].address.as_str(), endpoints[0].port), ("10.244.0.2", 8080));
    let workload = endpoints[0].workload.as_ref().unwrap();
    assert_eq!(workload.identity().to_string(), "spiffe://cluster.local/ns/prod/sa/pay-sa");
    assert_eq!((workload.workload_name.as_str(), workload.canonical_revision.as_str()), ("pay-v1", "v1"));
    assert!(workload.in_mesh);
}

#[test]
fn the_narrow_mtls_mode_counts() {
    let policies = r#"
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: pay, namespace: prod}
spec: {selector: {matchLabels: {app: pay}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {"5432": {mode: DISABLE}}}
"#;
    let mesh = mesh(&format!("{BASE}{policies}"));
    let workload = mesh.workload("prod", "pay-v1-abc-0").unwrap();
    assert_eq!(mesh.mtls_mode(workload, 8080), MtlsMode::Permissive);
    assert_eq!(mesh.mtls_mode(workload, 5432), MtlsMode::Disable);
    let mut other = (**workload).clone();
    other.labels.clear();
    assert_eq!(mesh.mtls_mode(&other, 8080), MtlsMode::Strict);
}

#[test]
fn rules_are_found_in_istios_order_and_subsets_merge() {
    let rules = r#"
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {name: a, namespace: prod}
spec: {host: pay, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: b, namespace: prod}
spec: {host: pay.prod.svc.cluster.local, subsets: [{name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: c, namespace: client}
spec: {host: "*.prod.svc.cluster.local"}
"#;
    let mesh = mesh(&format!("{BASE}{rules}"));
    let host = "pay.prod.svc.cluster.local";
    let from_prod = mesh.destination_rule_for(host, "prod", &Default::default()).unwrap();
    let names: Vec<_> = from_prod.subsets.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["v1", "v2"]);
    assert_eq!(mesh.destination_rule_for(host, "client", &Default::default()).unwrap().name, "c");
    assert_eq!(mesh.destination_rule_for(host, "elsewhere", &Default::default()).unwrap().name, "a");
}

#[test]
fn entries_are_services_with_stable_addresses() {
    let entries = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bank, namespace: prod}
spec: {hosts: [api.bank.example], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS, location: MESH_EXTERNAL}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vms, namespace: prod}
spec:
  hosts: [vm.example]
  addresses: [10.1.1.1]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  workloadSelector: {labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm-1, namespace: prod}
spec: {address: 10.9.0.1, ports: {http: 9090}, labels: {app: vm, security.istio.io/tlsMode: istio}, serviceAccount: vm, weight: 3}
"#;
    let both = mesh(entries);
    let bank = both.service("api.bank.example").unwrap();
    assert_eq!((bank.resolution, bank.mesh_external), (crate::Resolution::Dns, true));
    assert_eq!(both.endpoints("api.bank.example", 443)[0].address, "api.bank.example");
    let alone = mesh(entries.split("---").next().unwrap());
    assert_eq!(alone.service("api.bank.example").unwrap().auto_vip, bank.auto_vip, "other entries do not move it");
    assert!(bank.auto_vip.unwrap().to_string().starts_with("240.240."));
    let vm = &both.endpoints("vm.example", 80)[0];
    assert_eq!((vm.address.as_str(), vm.port, vm.weight), ("10.9.0.1", 9090, 3));
    let identity = vm.workload.as_ref().unwrap().identity().to_string();
    assert_eq!(identity, "spiffe://cluster.local/ns/prod/sa/vm");
}

#[test]
fn well_known_ports_are_not_detected() {
    let mesh =
        mesh("apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {ports: [{port: 3306}, {name: x, port: 80}]}");
    let protocols: Vec<_> = mesh.services().flat_map(|s| s.ports.iter().map(|p| p.protocol)).collect();
    assert_eq!(protocols, [crate::Protocol::Tcp, crate::Protocol::Auto]);
}

#[test]
fn slices_say_where_a_service_is() {
    let text = r#"
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1}}
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: prod}
spec: {clusterIP: 10.96.0.5, selector: {app: pay}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Pod
metadata: {name: pay-1, namespace: prod, labels: {app: pay, version: v1}}
spec: {containers: [{name: app}], initContainers: [{name: istio-proxy}]}
status: {podIP: 10.1.0.1, conditions: [{type: Ready, status: "False"}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: pay-x, namespace: prod, labels: {kubernetes.io/service-name: pay}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.1.0.1], conditions: {ready: true}, nodeName: n1, targetRef: {kind: Pod, name: pay-1, namespace: prod}}
- {addresses: [10.1.0.2], conditions: {ready: false}}
- {addresses: [10.1.0.3], targetRef: {kind: Pod, name: unknown-yet, namespace: prod}}
- {addresses: [192.0.2.7]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: pay-y, namespace: prod, labels: {kubernetes.io/service-name: pay}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [192.0.2.7]}]
"#;
    let host = "pay.prod.svc.cluster.local";
    let found = mesh(text).endpoints(host, 80);
    let addresses: Vec<_> = found.iter().map(|e| (e.address.as_str(), e.port)).collect();
    assert_eq!(addresses, [("10.1.0.1", 8080), ("192.0.2.7", 8080)]);
    assert_eq!((found[0].locality.as_str(), found[0].labels["version"].as_str()), ("eu/eu-1", "v1"));
    assert!(found[0].workload.as_ref().unwrap().in_mesh, "a native sidecar is one");

    let ready = text.replace("status: \"False\"", "status: \"True\"");
    let without = ready.split("---").filter(|d| !d.contains("EndpointSlice")).collect::<Vec<_>>().join("---");
    assert_eq!(mesh(&without).endpoints(host, 80).len(), 0, "no port of that name");
    let without = without.replace("targetPort: web", "targetPort: 8080");
    assert_eq!(mesh(&without).endpoints(host, 80).len(), 1, "without slices the selector finds pods");
    assert_eq!(
        crate::Snapshot::of_cluster(&resources(&without)).endpoints(host, 80).len(),
        0,
        "slices are complete there"
    );
}

#[test]
fn settings_of_proxies_are_laid_over_each_other() {
    let text = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "defaultConfig: {concurrency: 4, proxyMetadata: {A: mesh, B: mesh, C: mesh, D: mesh}}"}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: all, namespace: istio-system}
spec: {environmentVariables: {B: root, C: root, D: root}}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: prod, namespace: prod}
spec: {concurrency: 1, image: {imageType: distroless}, environmentVariables: {C: namespace, D: namespace}}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: pay, namespace: prod}
spec: {selector: {matchLabels: {app: pay}}, environmentVariables: {D: selected}}
"#;
    let mesh = mesh(text);
    let mut pod = istio_api::ObjectMeta { namespace: "prod".to_owned(), ..Default::default() };
    let told = |pod: &istio_api::ObjectMeta| {
        crate::proxy_settings(mesh.mesh_config(), mesh.proxy_configs(), pod).map(|s| {
            let values: Vec<String> = s.proxy_metadata.into_values().collect();
            (s.concurrency, values.join(" "))
        })
    };
    assert_eq!(told(&pod), Ok((Some(1), "mesh root namespace namespace".to_owned())));
    let image = crate::proxy_settings(mesh.mesh_config(), mesh.proxy_configs(), &pod).unwrap().image;
    assert_eq!(image.unwrap().image_type, "distroless");
    pod.labels.insert("app".to_owned(), "pay".to_owned());
    assert_eq!(told(&pod), Ok((Some(1), "mesh root namespace selected".to_owned())));
    let own = "concurrency: 2\nproxyMetadata: {A: pod}";
    pod.annotations.insert("proxy.istio.io/config".to_owned(), own.to_owned());
    assert_eq!(told(&pod), Ok((Some(2), "pod root namespace selected".to_owned())));
    pod.annotations.insert("proxy.istio.io/config".to_owned(), "gatewayTopology: {}".to_owned());
    assert!(told(&pod).unwrap_err().contains("\"gatewayTopology\" is not built"));
    pod.namespace = "other".to_owned();
    pod.annotations.clear();
    assert_eq!(told(&pod), Ok((Some(4), "mesh root root root".to_owned())));
}

#[test]
fn the_selected_namespaces_are_the_mesh() {
    let text = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "discoverySelectors: [{matchLabels: {mesh: \"on\"}}]"}
---
apiVersion: v1
kind: Namespace
metadata: {name: prod, labels: {mesh: "on"}}
---
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: prod}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: other}
spec: {ports: [{port: 80}]}
"#;
    let found = mesh(text);
    let names: Vec<_> = found.services().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["a"]);
    let all = mesh(&text.replace("discoverySelectors: [{matchLabels: {mesh: \\\"on\\\"}}]", "{}"));
    assert_eq!(all.services().count(), 2, "without selectors all are");
}

#[test]
fn services_say_which_endpoints_come_first() {
    use crate::Distribution::{self, SameNode, SameZone};
    let said = |namespace: &str, annotation: &str, spec: &str| -> (Option<Distribution>, bool) {
        let mesh = mesh(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: pay, namespace: prod, annotations: {{{annotation}}}}}\n\
             spec: {{{spec}}}\n---\n\
             apiVersion: v1\nkind: Namespace\nmetadata: {{name: prod, annotations: {{{namespace}}}}}\n"
        ));
        (mesh.service("pay.prod.svc.cluster.local").unwrap().distribution, mesh.tells_nodes_apart())
    };
    let word = |word: &str| format!("networking.istio.io/traffic-distribution: {word}");
    assert_eq!(said("", "", ""), (None, false));
    assert_eq!(said("", "", "trafficDistribution: PreferClose"), (Some(SameZone), false));
    assert_eq!(said("", "", "trafficDistribution: PreferSameZone"), (Some(SameZone), false));
    assert_eq!(said("", "", "trafficDistribution: PreferSameNode"), (Some(SameNode), true));
    assert_eq!(said("", &word("prefersamezone"), "trafficDistribution: PreferSameNode").0, Some(SameNode));
    assert_eq!(said("", &word("PreferClose"), "trafficDistribution: Other").0, Some(SameZone));
    assert_eq!(said(&word("PreferSameNode"), "", "").0, Some(SameNode));
    assert_eq!(said(&word("PreferSameNode"), &word("PreferClose"), "").0, Some(SameZone));
    assert_eq!(said(&word("PreferSameNode"), &word("any"), "").0, None, "its own word counts, whatever it is");
    let entry = mesh(&format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a, namespace: prod, annotations: {{{}}}}}\n\
         spec: {{hosts: [a.example], resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}]}}\n",
        word("PreferClose")
    ));
    assert_eq!(entry.service("a.example").unwrap().distribution, Some(SameZone));
}
