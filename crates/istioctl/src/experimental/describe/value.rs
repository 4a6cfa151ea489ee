//! What is said of a pod or a service, for machines.

use serde_json::{Value, json};

use super::{Objects, applied_mode, full, labels, protocol, selects, title, within};
use crate::access::Pod;
use crate::proxy_config::{list, text};

impl Objects {
    /// A pod.
    pub(crate) fn pod_value(&self, pod: &Pod) -> Value {
        let services = self.kind("Service").filter(|s| selects(s, pod));
        let mut value = json!({
            "pod": pod.proxy_id(), "inMesh": pod.in_mesh(),
            "services": services.map(|s| self.service_value(s, Some(pod))).collect::<Value>(),
        });
        if let Some(revision) = pod.labels.get("istio.io/rev") {
            value["revision"] = revision.as_str().into();
        }
        self.policies(pod, &mut value);
        value
    }

    /// A service by its name.
    pub(crate) fn named_value(&self, target: &str, namespace: &str, pods: &[Pod]) -> Result<Value, String> {
        let service = self.find(target, namespace)?;
        let mut value = self.service_value(service, None);
        let behind: Vec<&Pod> = pods.iter().filter(|p| selects(service, p)).collect();
        value["pods"] = behind.iter().map(|p| p.proxy_id()).collect();
        if let Some(pod) = behind.first() {
            self.policies(pod, &mut value);
        }
        Ok(value)
    }

    fn service_value(&self, service: &Value, pod: Option<&Pod>) -> Value {
        let host = full(text(service, "metadata.name"), text(service, "metadata.namespace"));
        let port = |p: &Value| json!({"name": p["name"], "port": p["port"], "targetPort": p["targetPort"], "protocol": protocol(p)});
        let rule = |rule: &Value| {
            let fits = |s: &&Value| pod.is_none_or(|p| within(&labels(&s["labels"]), &p.labels));
            let (with, without): (Vec<&Value>, Vec<&Value>) = list(rule, "spec.subsets").iter().partition(fits);
            let names = |all: &[&Value]| all.iter().map(|s| s["name"].clone()).collect::<Value>();
            json!({
                "name": title(rule), "host": rule["spec"]["host"], "matchingSubsets": names(&with),
                "otherSubsets": names(&without), "trafficPolicy": rule["spec"]["trafficPolicy"],
            })
        };
        let routes = |v: &Value| {
            let spec = &v["spec"];
            json!({"name": title(v), "hosts": spec["hosts"], "http": spec["http"], "tls": spec["tls"], "tcp": spec["tcp"]})
        };
        json!({
            "service": title(service), "ports": list(service, "spec.ports").iter().map(port).collect::<Value>(),
            "destinationRules": self.rules_for(&host).map(rule).collect::<Value>(),
            "virtualServices": self.routes_for(&host).map(routes).collect::<Value>(),
        })
    }

    fn policies(&self, pod: &Pod, value: &mut Value) {
        let authentications = self.authentications(pod);
        value["mtlsMode"] = applied_mode(&authentications).into();
        value["peerAuthentications"] = authentications.iter().map(|p| title(p)).collect();
        let one = |(name, action): (String, String)| json!({"name": name, "action": action});
        value["authorizationPolicies"] = self.authorizations(pod).into_iter().map(one).collect();
    }
}
