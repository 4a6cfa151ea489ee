//! Secrets that DestinationRules name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use istio_api::networking::{ClientTlsSettings, TrafficPolicy};
use istio_api::secret::{Credential, ROOTS_SUFFIX, secret_name};

use crate::policy::MergedDestinationRule;

/// Secrets by namespace and name.
pub type Credentials = BTreeMap<(String, String), Arc<Credential>>;

/// The Secrets of rules that select their clients. No other rule's count at sidecars (Istio: every sidecar would wait for
/// what most of them may not read), and they are of the rule's own namespace, since a selector reaches no other.
pub(crate) fn named<'a>(rules: impl Iterator<Item = &'a Arc<MergedDestinationRule>>) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for rule in rules.filter(|rule| !rule.selector.is_empty()) {
        let policies = rule.traffic_policy.iter().chain(rule.subsets.iter().filter_map(|s| s.traffic_policy.as_ref()));
        for name in policies.flat_map(settings).filter_map(|tls| secret_name(&tls.credential_name)) {
            // Roots may stand in a Secret of their own.
            all.insert((rule.namespace.clone(), format!("{name}{ROOTS_SUFFIX}")));
            all.insert((rule.namespace.clone(), name.to_owned()));
        }
    }
    all
}

fn settings(policy: &TrafficPolicy) -> impl Iterator<Item = &ClientTlsSettings> {
    policy.tls.iter().chain(policy.port_level_settings.iter().filter_map(|port| port.tls.as_ref()))
}

#[cfg(test)]
mod tests {
    use istio_api::yaml;

    use crate::Snapshot;

    #[test]
    fn only_secrets_that_a_rule_of_their_namespace_needs_are_kept() {
        let text = "
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {name: a, namespace: shop}
spec:
  host: a.example
  workloadSelector: {matchLabels: {app: pay}}
  trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE, credentialName: one}}]}
  subsets: [{name: s, trafficPolicy: {tls: {mode: MUTUAL, credentialName: 'kubernetes://two'}}}]
---
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {name: b, namespace: shop}
spec: {host: b.example, trafficPolicy: {tls: {mode: SIMPLE, credentialName: of-no-sidecar}}}
";
        let secret = |namespace: &str, name: &str| {
            format!(
                "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\nstringData: {{cacert: x}}\n"
            )
        };
        let all = [("shop", "one"), ("other", "one"), ("shop", "of-no-sidecar"), ("shop", "two-cacert")];
        let text = all.iter().fold(text.to_owned(), |text, (namespace, name)| text + &secret(namespace, name));
        let documents = yaml::parse(&text).unwrap();
        let resources: Vec<_> = documents.iter().filter_map(|d| istio_api::read(d, "shop").unwrap()).collect();
        let snapshot = Snapshot::build(&resources);
        let named: Vec<String> = snapshot.named_secrets().into_iter().map(|(n, s)| format!("{n}/{s}")).collect();
        assert_eq!(named, ["shop/one", "shop/one-cacert", "shop/two", "shop/two-cacert"]);
        let kept = all.map(|(namespace, name)| snapshot.credential(namespace, name).is_some());
        assert_eq!(kept, [true, false, false, true]);
    }
}
