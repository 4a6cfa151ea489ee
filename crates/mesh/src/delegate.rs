//! VirtualServices that hand a part of their routes to others: the routes of both, as one.

use std::collections::BTreeMap;
use std::sync::Arc;

use istio_api::Object;
use istio_api::networking::{Destination, HttpMatchRequest, HttpRoute, StringMatch, VirtualService};

use crate::model::exported;

/// The VirtualServices that have hosts, with the routes of their delegates in place. A delegate that does not exist, that
/// the root may not see, or whose match contradicts the root's, contributes nothing.
pub(crate) fn merged(
    all: &[Arc<Object<VirtualService>>],
    full: &dyn Fn(&str, &str) -> String,
) -> Vec<Arc<Object<VirtualService>>> {
    let delegates: BTreeMap<(&str, &str), &Arc<Object<VirtualService>>> = all
        .iter()
        .filter(|o| o.spec.hosts.is_empty())
        .map(|o| ((o.metadata.namespace.as_str(), o.metadata.name.as_str()), o))
        .collect();
    let roots = all.iter().filter(|o| !o.spec.hosts.is_empty());
    roots
        .map(|root| {
            if root.spec.http.iter().all(|http| http.delegate.is_none()) {
                return root.clone();
            }
            let mut out = (**root).clone();
            out.spec.http = root.spec.http.iter().flat_map(|http| routes(root, http, &delegates, full)).collect();
            Arc::new(out)
        })
        .collect()
}

/// One route of a root: itself, or those of its delegate.
fn routes(
    root: &Object<VirtualService>,
    http: &HttpRoute,
    delegates: &BTreeMap<(&str, &str), &Arc<Object<VirtualService>>>,
    full: &dyn Fn(&str, &str) -> String,
) -> Vec<HttpRoute> {
    let Some(to) = &http.delegate else { return vec![http.clone()] };
    let own = root.metadata.namespace.as_str();
    let namespace = if to.namespace.is_empty() { own } else { to.namespace.as_str() };
    let Some(found) = delegates.get(&(namespace, to.name.as_str())) else { return Vec::new() };
    if !exported(&found.spec.export_to, namespace, own) {
        return Vec::new();
    }
    // Only one level: a delegate's own delegates do not count.
    let theirs = found.spec.http.iter().filter(|theirs| theirs.delegate.is_none());
    theirs.filter_map(|theirs| route(http, theirs, namespace, full)).collect()
}

/// A delegate's route under its root's: what it leaves open is the root's.
fn route(
    root: &HttpRoute,
    theirs: &HttpRoute,
    namespace: &str,
    full: &dyn Fn(&str, &str) -> String,
) -> Option<HttpRoute> {
    let mut out = theirs.clone();
    out.r#match = matches(&root.r#match, &theirs.r#match)?;
    out.name = joined(&root.name, &theirs.name);
    out.rewrite = out.rewrite.or_else(|| root.rewrite.clone());
    out.timeout = out.timeout.or(root.timeout);
    out.retries = out.retries.or_else(|| root.retries.clone());
    out.fault = out.fault.or_else(|| root.fault.clone());
    out.mirror = out.mirror.or_else(|| root.mirror.clone());
    out.mirror_percent = out.mirror_percent.or(root.mirror_percent);
    out.mirror_percentage = out.mirror_percentage.or_else(|| root.mirror_percentage.clone());
    if out.mirrors.is_empty() {
        out.mirrors.clone_from(&root.mirrors);
    }
    out.cors_policy = out.cors_policy.or_else(|| root.cors_policy.clone());
    out.headers = out.headers.or_else(|| root.headers.clone());
    // Short names are the delegate's own, whose namespace the root's object does not tell.
    let resolve = |to: &mut Destination| to.host = full(&to.host, namespace);
    out.route.iter_mut().for_each(|to| resolve(&mut to.destination));
    out.mirrors.iter_mut().for_each(|to| resolve(&mut to.destination));
    out.mirror.iter_mut().for_each(resolve);
    Some(out)
}

fn joined(root: &str, theirs: &str) -> String {
    match (root, theirs) {
        ("", name) | (name, "") => name.to_owned(),
        (root, theirs) => format!("{root}-{theirs}"),
    }
}

/// The conditions of both; `None` when a condition of the delegate fits under none of the root.
fn matches(root: &[HttpMatchRequest], theirs: &[HttpMatchRequest]) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() || theirs.is_empty() {
        return Some(if root.is_empty() { theirs } else { root }.to_vec());
    }
    let mut out = Vec::new();
    for leaf in theirs {
        let before = out.len();
        out.extend(root.iter().filter(|root| !contradicts(root, leaf)).map(|root| both(root, leaf)));
        if out.len() == before {
            return None;
        }
    }
    Some(out)
}

fn both(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> HttpMatchRequest {
    let text = |leaf: &Option<StringMatch>, root: &Option<StringMatch>| leaf.clone().or_else(|| root.clone());
    fn union<V: Clone>(root: &BTreeMap<String, V>, leaf: &BTreeMap<String, V>) -> BTreeMap<String, V> {
        root.iter().chain(leaf).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
    HttpMatchRequest {
        name: joined(&root.name, &leaf.name),
        uri: text(&leaf.uri, &root.uri),
        scheme: text(&leaf.scheme, &root.scheme),
        method: text(&leaf.method, &root.method),
        authority: text(&leaf.authority, &root.authority),
        headers: union(&root.headers, &leaf.headers),
        port: leaf.port.or(root.port),
        source_labels: union(&root.source_labels, &leaf.source_labels),
        gateways: if leaf.gateways.is_empty() { &root.gateways } else { &leaf.gateways }.clone(),
        query_params: union(&root.query_params, &leaf.query_params),
        ignore_uri_case: leaf.ignore_uri_case,
        without_headers: union(&root.without_headers, &leaf.without_headers),
        source_namespace: if leaf.source_namespace.is_empty() {
            &root.source_namespace
        } else {
            &leaf.source_namespace
        }
        .clone(),
        stat_prefix: if leaf.stat_prefix.is_empty() { &root.stat_prefix } else { &leaf.stat_prefix }.clone(),
    }
}

/// Whether a delegate asks for what its root excludes: its conditions must narrow the root's.
fn contradicts(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> bool {
    let texts = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    texts.iter().any(|(root, leaf)| widens(root.as_ref(), leaf.as_ref()))
        || maps.iter().any(|(root, leaf)| leaf.iter().any(|(key, value)| widens(root.get(key), Some(value))))
        || root.ignore_uri_case != leaf.ignore_uri_case
        || matches!((root.port, leaf.port), (Some(root), Some(leaf)) if root != leaf)
        || (!root.source_namespace.is_empty()
            && !leaf.source_namespace.is_empty()
            && root.source_namespace != leaf.source_namespace)
        || leaf.source_labels.iter().any(|(key, value)| root.source_labels.get(key).is_some_and(|own| own != value))
        || (!root.gateways.is_empty() && leaf.gateways.iter().any(|gateway| !root.gateways.contains(gateway)))
}

/// Whether a pattern is not within another; expressions cannot be compared, so beside one there may be no other pattern.
fn widens(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    use StringMatch::{Exact, Prefix, Present, Regex};
    match (root, leaf) {
        (None, _) | (_, None) | (Some(Present), _) => false,
        (Some(Exact(root)), Some(Exact(leaf))) => root != leaf,
        (Some(Prefix(root)), Some(Prefix(leaf) | Exact(leaf))) => !leaf.starts_with(root.as_str()),
        (Some(Regex(_)), Some(Present)) => false,
        (Some(Regex(_)), Some(_)) | (Some(_), Some(Regex(_) | Present)) | (Some(Exact(_)), Some(Prefix(_))) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(of: StringMatch) -> HttpMatchRequest {
        HttpMatchRequest { uri: Some(of), ..HttpMatchRequest::default() }
    }

    #[test]
    fn a_delegate_may_only_narrow() {
        use StringMatch::{Exact, Prefix, Regex};
        let text = |s: &str| s.to_owned();
        for (root, leaf, fits) in [
            (Prefix(text("/a")), Prefix(text("/a/b")), true),
            (Prefix(text("/a")), Exact(text("/ab")), true),
            (Prefix(text("/a/b")), Prefix(text("/a")), false),
            (Exact(text("/a")), Exact(text("/a")), true),
            (Exact(text("/a")), Prefix(text("/a")), false),
            (Regex(text(".*")), Exact(text("/a")), false),
            (Prefix(text("/")), Regex(text(".*")), false),
        ] {
            let merged = matches(&[uri(root.clone())], &[uri(leaf.clone())]);
            assert_eq!(merged.map(|all| all[0].uri.clone()), fits.then_some(Some(leaf.clone())), "{root:?} {leaf:?}");
        }
    }

    #[test]
    fn one_condition_without_a_place_spoils_the_route() {
        let prefix = |s: &str| uri(StringMatch::Prefix(s.to_owned()));
        assert_eq!(matches(&[prefix("/a")], &[prefix("/a/b"), prefix("/c")]), None);
        assert_eq!(
            matches(&[prefix("/a"), prefix("/c")], &[prefix("/a/b"), prefix("/c")]).map(|all| all.len()),
            Some(2)
        );
        assert_eq!(matches(&[prefix("/a")], &[]), Some(vec![prefix("/a")]));
    }
}
