use super::*;

fn key() -> Key {
    ("production".to_owned(), "order".to_owned())
}

fn wish(replicas: usize, hash: &str) -> BTreeMap<Key, Workload> {
    let workload = Workload {
        namespace: key().0,
        name: key().1,
        deployment: true,
        replicas,
        template: crate::model::Template::default(),
        hash: hash.to_owned(),
    };
    BTreeMap::from([(key(), workload)])
}

fn pod(number: u64, hash: &str, ready: bool) -> Current {
    Current { number, workload: key(), hash: hash.to_owned(), ready }
}

#[test]
fn makes_as_many_as_wished_and_removes_the_rest() {
    assert_eq!(plan(&wish(2, "a"), &[]), [Step::Create(key()), Step::Create(key())]);
    assert_eq!(plan(&wish(1, "a"), &[pod(1, "a", true), pod(2, "a", true)]), [Step::Delete(2)]);
    assert_eq!(plan(&wish(1, "a"), &[pod(1, "a", false), pod(2, "a", true)]), [Step::Delete(1)]);
    assert_eq!(plan(&BTreeMap::new(), &[pod(1, "a", true)]), [Step::Delete(1)]);
    assert_eq!(plan(&wish(1, "a"), &[pod(1, "a", false)]), []);
}

#[test]
fn a_new_template_rolls_without_losing_a_ready_pod() {
    let mut pods = vec![pod(1, "a", true), pod(2, "a", true), pod(3, "a", true)];
    let mut next = 4;
    for _ in 0..20 {
        for step in plan(&wish(3, "b"), &pods) {
            match step {
                Step::Create(_) => {
                    pods.push(pod(next, "b", false));
                    next += 1;
                }
                Step::Delete(number) => pods.retain(|p| p.number != number),
            }
        }
        assert!(pods.iter().filter(|p| p.ready).count() >= 3, "{pods:?}");
        assert!(pods.len() <= 4, "{pods:?}");
        if let Some(starting) = pods.iter_mut().find(|p| !p.ready) {
            starting.ready = true;
        }
    }
    assert!(pods.len() == 3 && pods.iter().all(|p| p.hash == "b"), "{pods:?}");
}

#[test]
fn a_template_that_never_gets_ready_leaves_the_old_pods_alone() {
    let pods = [pod(1, "a", true), pod(2, "b", false)];
    assert_eq!(plan(&wish(1, "b"), &pods), []);
}
