//! Commands over a mesh in memory that notes what it is asked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::{Value, json};

use super::{injector, metrics};
use crate::access::{Access, Method, Pod};
use crate::bug_report::{Archive, BugReport};

/// A mesh in memory: pods, and pages by path.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) pods: Vec<Pod>,
    pub(crate) pages: BTreeMap<String, String>,
    pub(crate) asked: RefCell<Vec<String>>,
}

impl Access for Fake {
    fn pods(&self) -> Result<Vec<Pod>, String> {
        Ok(self.pods.clone())
    }

    fn pod_page(&self, pod: &Pod, method: Method, port: u16, path: &str) -> Result<Vec<u8>, String> {
        self.asked.borrow_mut().push(format!("{method:?} {}:{port}{path}", pod.proxy_id()));
        let short = path.split('?').next().unwrap_or(path);
        self.pages.get(short).map(|p| p.clone().into_bytes()).ok_or_else(|| format!("no page {path}"))
    }

    fn istiod_page(&self, path: &str) -> Result<Vec<u8>, String> {
        self.asked.borrow_mut().push(format!("istiod{path}"));
        self.pages.get(path).map(|p| p.clone().into_bytes()).ok_or_else(|| format!("no page {path}"))
    }

    fn log(&self, pod: Option<&Pod>, container: &str, _: u32) -> Result<Vec<u8>, String> {
        Ok(format!("log of {container} in {}\n", pod.map_or_else(|| "istiod".to_owned(), Pod::proxy_id)).into_bytes())
    }
}

fn pod(name: &str, namespace: &str, labels: &[(&str, &str)], containers: &[&str]) -> Pod {
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        containers: containers.iter().map(|c| (*c).to_owned()).collect(),
        ..Pod::default()
    }
}

#[test]
fn namespaces_are_listed_with_the_revisions_of_their_pods() {
    let space = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    let spaces = [
        space("prod", json!({"istio-injection": "enabled"})),
        space("test", json!({"istio.io/rev": "canary"})),
        space("empty", json!({"istio-injection": "enabled"})),
        space("off", json!({"istio-injection": "disabled", "istio.io/rev": "canary"})),
        space("plain", json!({})),
    ];
    let mesh = ["app", "istio-proxy"];
    let pods = [
        pod("a", "prod", &[], &mesh),
        pod("b", "prod", &[], &["app"]),
        pod("c", "test", &[("istio.io/rev", "canary")], &mesh),
        pod("d", "plain", &[], &mesh),
    ];
    let hook = |name: &str, rev: &str| json!({"metadata": {"name": name, "labels": {"app": "sidecar-injector", "istio.io/rev": rev}}});
    let other = json!({"metadata": {"name": "not-ours", "labels": {}}});
    let hooks = [hook("istio-sidecar-injector", "default"), hook("istio-sidecar-injector-old", "old"), other];
    let shown = injector::tables(&injector::namespaces(&spaces, &pods), &injector::injectors(&hooks, &spaces));
    let wanted = "NAMESPACE  ISTIO-REVISION  POD-REVISIONS\n\
                  empty      default         <no pods>\n\
                  prod       default         <non-Istio>: 1, default: 1\n\
                  test       canary          canary: 1\n\n\
                  NAMESPACES          INJECTOR-HOOK               ISTIO-REVISION\n\
                  prod,empty          istio-sidecar-injector      default\n\
                  DOES NOT AUTOINJECT  istio-sidecar-injector-old  old\n";
    let same = |a: &str, b: &str| a.split_whitespace().eq(b.split_whitespace());
    assert!(same(&shown, wanted), "{shown}");
}

#[test]
fn workloads_are_measured_by_the_meshs_prometheus() {
    let value = |n: &str| json!({"data": {"result": [{"value": [0, n]}]}}).to_string();
    let fake = Fake { pages: BTreeMap::from([("/api/v1/query".to_owned(), value("12.5"))]), ..Fake::default() };
    let prometheus = pod("prometheus-1", "istio-system", &[], &["prometheus"]);
    let row = metrics::of(&fake, &prometheus, "pay.prod", 60).expect("numbers");
    let shown = metrics::table(&[row]);
    assert_eq!(
        shown.lines().nth(1).map(str::trim),
        Some("pay.prod       12.500       12.500         13ms         13ms         13ms")
    );
    let asked = fake.asked.borrow();
    assert_eq!(asked.len(), 5);
    assert!(
        asked[0].starts_with("Get prometheus-1.istio-system:9090/api/v1/query?query=sum%28rate%28istio_requests_total"),
        "{asked:?}"
    );
    assert!(
        asked[0].contains("destination_workload_namespace%3D%22prod%22") && asked[0].contains("%5B60s%5D"),
        "{asked:?}"
    );
    assert!(metrics::of(&fake, &prometheus, "pay\"} or vector(1)", 60).is_err_and(|e| e.contains("is no workload")));
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    report: BugReport,
}

#[test]
fn a_bug_report_has_everything_but_keys() {
    use clap::Parser as _;
    let key = "c2VjcmV0IGtleQ==";
    let dump = json!({"configs": [{"secret": {"tls_certificate": {"private_key": {"inline_bytes": key}, "certificate_chain": {"inline_bytes": "b3Blbg=="}}}}]});
    let pages = BTreeMap::from([
        ("/config_dump".to_owned(), dump.to_string()),
        ("/debug/syncz".to_owned(), "[]".to_owned()),
        ("/stats/prometheus".to_owned(), "a 1\n".to_owned()),
    ]);
    let fake = Fake { pages, pods: vec![pod("pay-1", "prod", &[], &["app", "istio-proxy"])], ..Fake::default() };
    let report = Line::parse_from(["bug-report"]).report;
    let mut bytes = Vec::new();
    let mut archive = Archive::new(&mut bytes);
    report.collect(&fake, &fake.pods, &mut archive).expect("collected");
    archive.finish().expect("written");
    let mut files = BTreeMap::new();
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
    for entry in tar.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        files.insert(name, text);
    }
    let of =
        |name: &str| files.get(&format!("bug-report/{name}")).unwrap_or_else(|| panic!("{name}: {:?}", files.keys()));
    let dump = of("proxies/prod/pay-1/config_dump");
    assert!(!dump.contains(key) && dump.contains("W3JlZGFjdGVkXQ==") && dump.contains("b3Blbg=="), "{dump}");
    assert_eq!(of("proxies/prod/pay-1/istio-proxy.log"), "log of istio-proxy in pay-1.prod\n");
    assert_eq!(of("proxies/prod/pay-1/stats/prometheus"), "a 1\n");
    assert!(of("istiod/debug/syncz").contains("[]"));
    assert!(of("istiod/debug/mesh.missing").contains("no page"), "what cannot be had says so");
    assert_eq!(of("istiod/log"), "log of discovery in istiod\n");
}

#[test]
fn a_dashboard_passes_pages_on() {
    let fake = Fake { pages: BTreeMap::from([("/clusters".to_owned(), "c".to_owned())]), ..Fake::default() };
    let pay = pod("pay-1", "prod", &[], &[]);
    let ask = |method: &str, path: &str| {
        let request = http::Request::builder().method(method).uri(path).body(()).expect("a request");
        crate::dashboard::page(&fake, Some(&pay), 15000, &request).status().as_u16()
    };
    assert_eq!((ask("GET", "/clusters?format=json"), ask("POST", "/clusters"), ask("GET", "/no")), (200, 200, 502));
    assert_eq!(ask("DELETE", "/clusters"), 502);
    assert_eq!(
        fake.asked.borrow()[..2],
        ["Get pay-1.prod:15000/clusters?format=json", "Post pay-1.prod:15000/clusters"]
    );
}
