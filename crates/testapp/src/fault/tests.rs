use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), http::HeaderValue::from_static(v))).collect()
}

#[test]
fn headers_choose() {
    let faults = Faults::default();
    assert_eq!(faults.decide(&headers(&[])), Fault::default());
    let fault = faults.decide(&headers(&[("x-app-status", "418"), ("x-app-delay", "20ms")]));
    assert_eq!((fault.status, fault.delay), (Some(418), Duration::from_millis(20)));
    assert!(faults.decide(&headers(&[("x-app-reset", "true")])).reset);
}

#[test]
fn fail_first_counts_by_request_id() {
    let faults = Faults::default();
    let request = headers(&[("x-app-fail-first", "2"), ("x-request-id", "a")]);
    let other = headers(&[("x-app-fail-first", "2"), ("x-request-id", "b"), ("x-app-status", "500")]);
    assert_eq!(faults.decide(&request).status, Some(503));
    assert_eq!(faults.decide(&other).status, Some(500));
    assert_eq!(faults.decide(&request).status, Some(503));
    assert_eq!(faults.decide(&request).status, None);
}

#[test]
fn the_switch_counts_down_and_turns_off() {
    let faults = Faults::default();
    faults.throw(500, Some(2));
    let seen: Vec<_> = (0..3).map(|_| faults.decide(&HeaderMap::new()).status).collect();
    assert_eq!(seen, [Some(500), Some(500), None]);
    faults.throw(500, None);
    assert_eq!(faults.decide(&HeaderMap::new()).status, Some(500));
    faults.throw(0, None);
    assert_eq!(faults.decide(&HeaderMap::new()).status, None);
}

#[test]
fn remembered_ids_are_bounded() {
    let mut attempts = Attempts::default();
    for i in 0..REMEMBERED_IDS + 5 {
        attempts.count(&i.to_string());
    }
    assert_eq!(attempts.seen.len(), REMEMBERED_IDS);
}
