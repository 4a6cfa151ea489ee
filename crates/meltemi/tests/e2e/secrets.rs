//! Secrets that DestinationRules name, in the sidecars of pods.

use serde_json::Value;

use crate::shop::Shop;

const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bank, namespace: production}
spec:
  hosts: [bank.example]
  ports: [{number: 443, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: bank, namespace: production}
spec:
  host: bank.example
  workloadSelector: {matchLabels: {app: order-service}}
  trafficPolicy: {tls: {mode: MUTUAL, credentialName: bank}}
";

/// A Secret with a new certificate of a name, its own root; and the key.
fn secret(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let indented = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let data: String = [("tls.crt", &chain), ("tls.key", &key), ("ca.crt", &chain)]
        .into_iter()
        .map(|(file, pem)| format!("  {file}: |\n{}", indented(pem)))
        .collect();
    let text = format!(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: bank, namespace: production}}\nstringData:\n{data}"
    );
    (text, key)
}

/// Names of the certificates for servers that a pod's sidecar has in force, as its admin page shows them.
fn names(shop: &Shop, pod: &str) -> Vec<String> {
    let page: Value = serde_json::from_str(&shop.page(pod, 15000, "/certs")).unwrap_or_default();
    let all = page["certificates"].as_array().cloned().unwrap_or_default();
    let chains = all.iter().flat_map(|c| c["cert_chain"].as_array().cloned().unwrap_or_default());
    let names = chains.flat_map(|c| c["subject_alt_names"].as_array().cloned().unwrap_or_default());
    names.filter_map(|name| name["dns"].as_str().map(str::to_owned)).collect()
}

#[test]
#[ignore = "needs root: it makes network namespaces"]
fn a_secret_reaches_the_sidecars_that_a_rule_selects_and_no_other() {
    let (first, key) = secret("first.example");
    let shop = Shop::with(
        |_| vec![("bank.yaml".to_owned(), RULE.to_owned()), ("secret.yaml".to_owned(), first.clone())],
        |_| {},
    );
    let (order, other) = (shop.pods("order-service").remove(0), shop.pods("greeter").remove(0));
    shop.until("the certificate", || names(&shop, &order) == ["first.example"]);
    shop.write("secret.yaml", &secret("second.example").0);
    shop.until("the new certificate", || names(&shop, &order) == ["second.example"]);
    assert_eq!(names(&shop, &other), [""; 0], "the rule does not select it");
    // What the sidecar shows of itself has no key in it, in any writing.
    let dump = shop.page(&order, 15000, "/config_dump");
    assert!(dump.contains("kubernetes://bank-cacert"));
    let line = key.lines().nth(1).expect("a key");
    assert!(!dump.contains(line) && !dump.contains("PRIVATE KEY"));
    // Without the rule nothing is asked for, and nothing is kept.
    shop.write("bank.yaml", "");
    shop.until("the end", || names(&shop, &order).is_empty());
    let report = shop.load(&["-n", "20"]);
    assert_eq!(crate::shop::count(&report, "/statuses/200"), 20, "{report}");
}
