//! What a user sees for the usual mistakes: code, object, line and a sentence that says what to do.

use std::path::Path;

use galley::{Input, Level, Message, analyze};

const SEED: &str = r#"apiVersion: v1
kind: Namespace
metadata: {name: production, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: payment-api, namespace: production}
spec: {selector: {app: payment-api}, ports: [{name: http, port: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: payment-v1, namespace: production}
spec:
  selector: {matchLabels: {app: payment-api}}
  template: {metadata: {labels: {app: payment-api, version: v1}}, spec: {containers: [{name: app}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: payment-v2, namespace: production}
spec:
  selector: {matchLabels: {app: payment-api}}
  template: {metadata: {labels: {app: payment-api, version: v2}}, spec: {containers: [{name: app}]}}
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {name: payment-api, namespace: production}
spec:
  host: payment-api
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"#;

fn with(text: &str) -> Vec<Message> {
    let mut input = Input::new();
    input.add_text(Path::new("mesh.yaml"), SEED, "default");
    input.add_text(Path::new("edit.yaml"), text, "production");
    analyze(&input, Some("production"))
}

/// The only finding about `edit.yaml`: code, line and text.
fn one(text: &str) -> (&'static str, u64, String) {
    let found = with(text);
    let about: Vec<&Message> =
        found.iter().filter(|m| m.origin.as_ref().is_some_and(|o| o.file == Path::new("edit.yaml"))).collect();
    let [message] = about.as_slice() else { panic!("{found:#?}") };
    (message.code.code, message.origin.as_ref().map_or(0, |o| o.line), message.text.clone())
}

fn route(line: &str) -> String {
    let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: payment-api}\nspec:\n";
    format!("{head}  hosts: [payment-api]\n  http:\n  - route:\n    - destination: {line}\n")
}

#[test]
fn a_sound_mesh_has_no_findings() {
    assert_eq!(with(&route("{host: payment-api, subset: v1}")), []);
}

#[test]
fn unknown_fields_and_wrong_types_name_the_line() {
    let (code, line, text) = one(&route("{host: payment-api, subset: v1, wieght: 3}"));
    assert_eq!((code, line), ("IST0106", 8), "{text}");
    assert!(text.contains("wieght"), "{text}");
    let (code, line, _) = one(&route("{host: [payment-api]}"));
    assert_eq!((code, line), ("IST0106", 8));
    let (code, line, text) = one("kind: A\nspec: [1,\nb: }\n");
    assert_eq!((code, line), ("IST0106", 2), "{text}");
}

#[test]
fn what_does_not_exist_is_named_with_what_does() {
    let (code, line, text) = one(&route("{host: payment-api, subset: v3}"));
    assert_eq!((code, line), ("IST0101", 8));
    assert!(text.contains("\"v3\"") && text.contains("v1, v2"), "{text}");
    let (code, _, text) = one(&route("{host: payment-api.prod.svc.cluster.local}"));
    assert_eq!(code, "IST0101");
    assert!(text.contains("did you mean \"payment-api.production.svc.cluster.local\""), "{text}");
    let (code, _, text) = one(&route("{host: payment-api, port: {number: 9}}"));
    assert_eq!(code, "IST0101");
    assert!(text.contains("no port 9, but 8080"), "{text}");
}

#[test]
fn conflicting_hosts_name_each_other() {
    let first = route("{host: payment-api}");
    let second = first.replace("name: payment-api", "name: other");
    let found = with(&format!("{first}---\n{second}"));
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].starts_with("Error [IST0109] (VirtualService production/other edit.yaml:14)"), "{texts:?}");
    assert!(texts[0].contains("payment-api.production.svc.cluster.local"), "{texts:?}");
}

#[test]
fn a_selector_that_selects_nothing_is_shown() {
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n  selector: \
                  {matchLabels: {app: nobody}}\n";
    let (code, line, text) = one(policy);
    assert_eq!((code, line), ("IST0127", 5));
    assert!(text.contains("app=nobody"), "{text}");
}

#[test]
fn strict_names_the_workloads_it_locks_out() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: legacy, labels: {istio-injection: disabled}}\n---\n\
                apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: old, namespace: legacy}\nspec: {template: \
                {metadata: {labels: {app: old}}, spec: {containers: [{name: app}]}}}\n---\n\
                apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: \
                istio-system}\nspec: {mtls: {mode: STRICT}}\n";
    let (code, line, said) = one(text);
    assert_eq!((code, line), ("MEL0001", 13), "{said}");
    assert!(said.contains("the mesh") && said.contains("legacy/old"), "{said}");
}

#[test]
fn the_gravest_comes_first() {
    let text = format!(
        "{}---\n{}",
        route("{host: nobody}"),
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 1}]}\n"
    );
    let levels: Vec<Level> = with(&text).iter().map(|m| m.code.level).collect();
    assert_eq!(levels, [Level::Error, Level::Info]);
}

#[test]
fn namespaces_are_told_apart() {
    let mut input = Input::new();
    input.add_text(Path::new("a.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n", "default");
    input.add_text(Path::new("b.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n", "default");
    let resources = |n| analyze(&input, n).into_iter().map(|m| m.resource).collect::<Vec<_>>();
    assert_eq!(resources(Some("b")), ["Namespace b"]);
    assert_eq!(resources(None).len(), 2);
}

#[test]
fn failover_needs_something_that_tells_who_fails() {
    let rule = |host: &str, policy: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web}}\nspec:\n  host: \"{host}\"\n  \
             trafficPolicy:\n    {policy}\n"
        )
    };
    let external = "*.example.com";
    for setting in
        ["localityLbSetting: {failover: [{from: a, to: b}]}", "zoneAwareLbSetting: {failoverPriority: [rack]}"]
    {
        let (code, line, text) = one(&rule(external, &format!("loadBalancer: {{{setting}}}")));
        assert_eq!((code, line), ("IST0133", 7), "{text}");
        assert!(text.contains("outlierDetection"), "{text}");
        let both = format!("loadBalancer: {{{setting}}}\n    outlierDetection: {{}}");
        assert_eq!(with(&rule(external, &both)), [], "{setting}");
        let inherited = format!(
            "outlierDetection: {{}}\n  subsets: [{{name: v1, trafficPolicy: {{loadBalancer: {{{setting}}}}}}}]"
        );
        assert_eq!(with(&rule(external, &inherited)), [], "{setting}");
        let port = format!(
            "outlierDetection: {{}}\n    portLevelSettings: [{{port: {{number: 80}}, loadBalancer: {{{setting}}}}}]"
        );
        assert_eq!(one(&rule(external, &port)).0, "IST0133", "a port inherits nothing");
    }
}
