use std::sync::Arc;

use envoy_api::Any;
use parking_lot::Mutex;
use tonic::metadata::MetadataMap;

use super::*;
use crate::server::Wanted;

/// Says what it was told to say: resources by type.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<BTreeMap<&'static str, Versions>>>);

/// Names and versions.
type Versions = Vec<(&'static str, &'static str)>;

impl Told {
    fn say(&self, kind: &'static str, resources: &[(&'static str, &'static str)]) {
        self.0.lock().insert(kind, resources.to_vec());
    }
}

impl Generator for Told {
    type Proxy = ();

    fn admit(&self, _: &Node, _: &MetadataMap, _: &tonic::Extensions) -> Result<(), Status> {
        Ok(())
    }

    fn debug(
        &self,
        _: &MetadataMap,
        _: &tonic::Extensions,
        _: &str,
        _: &[String],
    ) -> Result<Vec<(String, Any)>, Status> {
        Ok(Vec::new())
    }

    fn generate(&self, (): &(), kind: &str, wanted: &Wanted) -> Answer {
        let all = self.0.lock().get(kind).cloned().unwrap_or_default();
        let is_wanted = |name: &str| match wanted {
            Wanted::All => true,
            Wanted::Names(names) => names.iter().any(|n| n == name),
        };
        let resource = |(name, version): (&str, &str)| {
            Arc::new(Resource { name: name.to_owned(), version: version.to_owned(), body: Any::default() })
        };
        all.into_iter().filter(|(name, _)| is_wanted(name)).map(resource).collect()
    }
}

fn session(told: &Told) -> Session<Told> {
    Session::new(&AdsServer::new(told.clone()), Request::new(())).0
}

fn asks(kind: &str, names: &[&str], nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node::default()),
        type_url: types::url(kind),
        resource_names_subscribe: names.iter().map(|&n| n.to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn world_asks(kind: &str, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node::default()),
        type_url: types::url(kind),
        resource_names: names.iter().map(|&n| n.to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

/// What goes out: type and names.
fn sent(answers: &[Outgoing<DeltaDiscoveryResponse>]) -> Vec<(&str, Vec<&str>)> {
    fn line(a: &Outgoing<DeltaDiscoveryResponse>) -> (&str, Vec<&str>) {
        (types::bare(&a.message.type_url), a.resources.iter().map(|r| r.name.as_str()).collect())
    }
    answers.iter().map(line).collect()
}

/// A stream that was sent cluster `c` and its endpoints; the nonces of both.
fn warming(told: &Told) -> (Session<Told>, String, String) {
    told.say(types::CLUSTER, &[("c", "1"), ("d", "1")]);
    told.say(types::ENDPOINT, &[("c", "1"), ("d", "1")]);
    let mut session = session(told);
    let clusters = session.delta(asks(types::CLUSTER, &[], "")).unwrap();
    let endpoints = session.delta(asks(types::ENDPOINT, &["c", "d"], "")).unwrap();
    assert_eq!(sent(&endpoints), [(types::ENDPOINT, vec!["c", "d"])]);
    (session, clusters[0].message.nonce.clone(), endpoints[0].message.nonce.clone())
}

#[test]
fn a_changed_cluster_brings_its_endpoints_also_when_it_had_to_wait() {
    let told = Told::default();
    let (mut session, clusters, endpoints) = warming(&told);
    session.delta(asks(types::ENDPOINT, &[], &endpoints)).unwrap();
    told.say(types::CLUSTER, &[("c", "2"), ("d", "1")]);
    assert!(session.changed().is_empty(), "the first clusters are not acknowledged yet");
    let late = session.delta(asks(types::CLUSTER, &[], &clusters)).unwrap();
    assert_eq!(sent(&late), [(types::CLUSTER, vec!["c"]), (types::ENDPOINT, vec!["c"])]);
}

#[test]
fn endpoints_in_flight_are_followed_by_those_of_the_changed_cluster() {
    let told = Told::default();
    let (mut session, clusters, endpoints) = warming(&told);
    session.delta(asks(types::CLUSTER, &[], &clusters)).unwrap();
    told.say(types::CLUSTER, &[("c", "2"), ("d", "1")]);
    assert_eq!(sent(&session.changed()), [(types::CLUSTER, vec!["c"])]);
    let late = session.delta(asks(types::ENDPOINT, &[], &endpoints)).unwrap();
    assert_eq!(sent(&late), [(types::ENDPOINT, vec!["c"])]);
}

#[test]
fn the_state_of_the_world_brings_them_too() {
    let told = Told::default();
    told.say(types::CLUSTER, &[("c", "1")]);
    told.say(types::ENDPOINT, &[("c", "1")]);
    let mut session = session(&told);
    let clusters = session.world(world_asks(types::CLUSTER, &[], "")).unwrap().remove(0).message.nonce;
    let endpoints = session.world(world_asks(types::ENDPOINT, &["c"], "")).unwrap().remove(0).message.nonce;
    assert!(session.world(world_asks(types::ENDPOINT, &["c"], &endpoints)).unwrap().is_empty());
    told.say(types::CLUSTER, &[("c", "2")]);
    assert!(session.changed_world().is_empty());
    let late = session.world(world_asks(types::CLUSTER, &[], &clusters)).unwrap();
    let kinds: Vec<_> = late.iter().map(|a| types::bare(&a.message.type_url)).collect();
    assert_eq!(kinds, [types::CLUSTER, types::ENDPOINT]);
    assert_eq!(late[1].resources.len(), 1);
}

/// Istio's own tools put the time of day there.
#[test]
fn a_nonce_that_is_not_ours_acknowledges_nothing() {
    const TIME: &str = "2026-08-27 12:05:20.1 +0000 UTC m=+0.1";
    let told = Told::default();
    told.say(types::CLUSTER, &[("c", "1")]);
    let mut session = session(&told);
    for type_url in [types::url(types::CLUSTER), types::SYNCZ.to_owned()] {
        let asks = |nonce: &str| DiscoveryRequest { type_url: type_url.clone(), ..world_asks("", &[], nonce) };
        let first = session.world(asks(TIME)).unwrap();
        let [answer] = first.as_slice() else { panic!("{type_url}: {first:?}") };
        assert!(session.world(asks(&answer.message.nonce)).unwrap().is_empty(), "{type_url}: it is acknowledged");
    }
    let page = |nonce: &str| DeltaDiscoveryRequest { type_url: types::SYNCZ.to_owned(), ..asks("", &[], nonce) };
    let answers = session.delta(page(TIME)).unwrap();
    assert_eq!(answers.len(), 1);
    assert!(session.delta(page(&answers[0].message.nonce)).unwrap().is_empty());
    assert!(session.world(world_asks(types::CLUSTER, &[], TIME)).unwrap().is_empty(), "later on it is stale");
}
