use std::time::Duration;

use super::*;
use crate::config::{Balance, ClusterConfig};
use crate::dns::tests::server;
use crate::registry::Registry;

const LIMITS: NameLimits = NameLimits { most: 3, unused: Duration::from_secs(300), ipv4_only: true };

fn cluster(registry: &Registry) -> Arc<Cluster> {
    let mut config = ClusterConfig::new("names", Discovery::Names(LIMITS));
    config.balance = Balance::Original;
    registry.apply(config);
    registry.slot("names").load().unwrap()
}

fn target(text: &str) -> Target {
    Target::of_authority(text, 80).unwrap()
}

fn picked(cluster: &Cluster, target: &Target) -> Option<String> {
    let context = PickContext { target: Some(target), ..PickContext::default() };
    cluster.pick(&context).ok().map(|h| h.address.to_string())
}

#[test]
fn a_target_is_a_host_and_a_port() {
    let of = |text: &str| Target::of_authority(text, 80).map(|t| (t.host.to_string(), t.port));
    assert_eq!(of("A.Example"), Some(("a.example".to_owned(), 80)));
    assert_eq!(of("a.example:8080"), Some(("a.example".to_owned(), 8080)));
    assert_eq!(of("[::1]:81"), Some(("::1".to_owned(), 81)));
    assert_eq!(of("[::1]"), Some(("::1".to_owned(), 80)));
    let long = "a".repeat(254);
    for bad in ["", ":80", "a b", "a/b", "a\nb", "a:0", "a:99999", "a:b:c", "[a]", long.as_str()] {
        assert_eq!(of(bad), None, "{bad:?}");
    }
}

#[tokio::test]
async fn names_are_asked_for_when_called_and_each_has_its_own_addresses() {
    let (asked, at) = server(300).await;
    let (registry, resolver) = (Registry::default(), Resolver::at(vec![at]));
    let names = cluster(&registry);
    let (a, b) = (target("a.example"), target("b.example:8080"));
    assert_eq!((picked(&names, &a), due(&names).len()), (None, 0));
    for _ in 0..3 {
        assert_eq!(ready(&names, &a, LIMITS, &resolver).await, Ok(()));
    }
    assert_eq!(ready(&names, &b, LIMITS, &resolver).await, Ok(()));
    assert_eq!(asked.load(Relaxed), 2, "once for each name");
    assert_eq!(picked(&names, &a).as_deref(), Some("192.0.2.1:80"));
    assert_eq!(picked(&names, &b).as_deref(), Some("192.0.2.2:8080"));
    assert_eq!(names.hosts().len(), 2, "all hosts are the cluster's");
    // A new configuration keeps what is known.
    let again = cluster(&registry);
    assert_eq!(picked(&again, &a).as_deref(), Some("192.0.2.1:80"));
}

#[tokio::test]
async fn names_have_a_limit_and_one_that_does_not_exist_is_said_to() {
    let (_, at) = server(300).await;
    let (registry, resolver) = (Registry::default(), Resolver::at(vec![at]));
    let names = cluster(&registry);
    assert_eq!(ready(&names, &target("gone.example"), LIMITS, &resolver).await, Err(NameError::NoAddress));
    assert_eq!(ready(&names, &target("a.example"), LIMITS, &resolver).await, Ok(()));
    assert_eq!(ready(&names, &target("b.example"), LIMITS, &resolver).await, Ok(()));
    assert_eq!(ready(&names, &target("c.example"), LIMITS, &resolver).await, Err(NameError::Overflow));
    assert_eq!(ready(&names, &target("a.example"), LIMITS, &resolver).await, Ok(()), "one that is known still goes");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_calls_is_forgotten() {
    let registry = Registry::default();
    let names = cluster(&registry);
    // An address is its own answer: no server is asked while the clock stands.
    let (resolver, a) = (Resolver::at(Vec::new()), target("192.0.2.9"));
    assert_eq!(ready(&names, &a, LIMITS, &resolver).await, Ok(()));
    let host = names.hosts().remove(0);
    tokio::time::advance(Duration::from_secs(299)).await;
    due(&names);
    assert_eq!(names.hosts().len(), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    due(&names);
    assert_eq!((names.hosts().len(), host.is_removed(), picked(&names, &a)), (0, true, None));
}

#[tokio::test]
async fn an_answer_that_ran_out_is_used_while_another_is_fetched() {
    let (asked, at) = server(0).await;
    let (registry, resolver) = (Registry::default(), Resolver::at(vec![at]));
    let (names, a) = (cluster(&registry), target("a.example"));
    assert_eq!(ready(&names, &a, LIMITS, &resolver).await, Ok(()));
    // The shortest life is a second; nobody calls meanwhile.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(due(&names).is_empty(), "nobody has called since");
    assert_eq!(ready(&names, &a, LIMITS, &resolver).await, Ok(()));
    assert_eq!((asked.load(Relaxed), picked(&names, &a).as_deref()), (1, Some("192.0.2.1:80")));
    let called = due(&names);
    assert_eq!(called.len(), 1);
    refresh(&names, &called[0], &resolver).await;
    assert_eq!((asked.load(Relaxed), picked(&names, &a).as_deref()), (2, Some("192.0.2.2:80")));
}
