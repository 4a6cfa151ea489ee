//! Secrets of Kubernetes for sidecars, by Istio's names: `kubernetes://NAME` is a certificate with its key,
//! `kubernetes://NAME-cacert` the roots that go with it.

use envoy_api::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_api::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_api::envoy::extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, TlsCertificate};
use envoy_api::prost::Message as _;
use istio_api::secret::ROOTS_SUFFIX;
use mesh::Snapshot;
use xxhash_rust::xxh64::xxh64;

use crate::Resource;

const SCHEME: &str = "kubernetes://";

/// What a Secret's certificate is asked for by.
pub(crate) fn certificate(name: &str) -> String {
    format!("{SCHEME}{name}")
}

/// What a Secret's roots are asked for by.
pub(crate) fn roots(name: &str) -> String {
    format!("{SCHEME}{name}{ROOTS_SUFFIX}")
}

/// A secret by the name that a proxy of a namespace asks for. Only Secrets of that namespace are looked at, and of them only
/// those that a DestinationRule of it names. Without `keys` only roots are given, as they are no secret (Istio's rule).
/// Nothing of it is kept here, or in what [`Resource`]s share.
pub fn secret(snapshot: &Snapshot, namespace: &str, asked: &str, keys: bool) -> Option<Resource> {
    let name = asked.strip_prefix(SCHEME)?;
    let content = match name.strip_suffix(ROOTS_SUFFIX) {
        Some(whole) => {
            let of = |name: &str| snapshot.credential(namespace, name)?.roots();
            let (roots, revoked) = of(name).or_else(|| of(whole))?;
            Type::ValidationContext(CertificateValidationContext {
                trusted_ca: Some(inline(roots)),
                crl: revoked.map(inline),
                ..CertificateValidationContext::default()
            })
        }
        None if keys => {
            let (chain, key) = snapshot.credential(namespace, name)?.certificate()?;
            Type::TlsCertificate(TlsCertificate {
                certificate_chain: Some(inline(chain)),
                private_key: Some(inline(key)),
                ..TlsCertificate::default()
            })
        }
        None => return None,
    };
    let secret = Secret { name: asked.to_owned(), r#type: Some(content) };
    let version = format!("{:016x}", xxh64(&secret.encode_to_vec(), 0));
    Some(Resource { name: asked.to_owned(), body: envoy_api::pack(&secret), version })
}

fn inline(pem: &str) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(pem.as_bytes().to_vec())), ..DataSource::default() }
}

#[cfg(test)]
mod tests {
    use istio_api::yaml;

    use super::*;

    const MESH: &str = "
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {name: a, namespace: shop}
spec:
  host: a.example
  workloadSelector: {matchLabels: {app: pay}}
  trafficPolicy: {tls: {mode: MUTUAL, credentialName: one}}
---
apiVersion: v1
kind: Secret
metadata: {name: one, namespace: shop}
stringData: {tls.crt: CHAIN, tls.key: KEY, ca.crt: ROOT, ca.crl: REVOKED}
---
apiVersion: v1
kind: Secret
metadata: {name: one, namespace: other}
stringData: {tls.crt: CHAIN, tls.key: KEY, ca.crt: ROOT}
---
apiVersion: v1
kind: Secret
metadata: {name: unnamed, namespace: shop}
stringData: {tls.crt: CHAIN, tls.key: KEY, ca.crt: ROOT}
";

    fn snapshot(text: &str) -> Snapshot {
        let documents = yaml::parse(text).unwrap();
        let resources: Vec<_> = documents.iter().filter_map(|d| istio_api::read(d, "shop").unwrap()).collect();
        Snapshot::build(&resources)
    }

    fn shown(found: Option<Resource>) -> Option<String> {
        found.map(|r| {
            let secret: Secret = envoy_api::unpack(&r.body).unwrap();
            format!("{:?}", secret.r#type.unwrap())
        })
    }

    #[test]
    fn a_key_is_given_only_for_a_secret_of_the_namespace_that_a_rule_names() {
        let mesh = snapshot(MESH);
        let get = |namespace: &str, asked: &str, keys| shown(secret(&mesh, namespace, asked, keys));
        assert!(get("shop", "kubernetes://one", true).unwrap().starts_with("TlsCertificate"));
        let roots = get("shop", "kubernetes://one-cacert", false).unwrap();
        assert!(roots.starts_with("ValidationContext") && !roots.contains("private_key"), "{roots}");
        for (namespace, asked, keys) in [
            ("shop", "kubernetes://one", false),
            ("other", "kubernetes://one", true),
            ("other", "kubernetes://shop/one", true),
            ("shop", "kubernetes://other/one", true),
            ("shop", "kubernetes://shop/one", true),
            ("shop", "kubernetes://unnamed", true),
            ("shop", "kubernetes://unnamed-cacert", true),
            ("shop", "kubernetes-gateway://shop/one", true),
            ("shop", "one", true),
            ("shop", "default", true),
            ("", "kubernetes://one", true),
        ] {
            assert_eq!(get(namespace, asked, keys), None, "{namespace} {asked}");
        }
    }

    #[test]
    fn roots_of_their_own_secret_count_first_and_content_is_told_by_the_version() {
        let first = secret(&snapshot(MESH), "shop", "kubernetes://one-cacert", false).unwrap();
        let own = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: one-cacert, namespace: shop}\nstringData: {cacert: OWN}\n";
        let second = secret(&snapshot(&format!("{MESH}{own}")), "shop", "kubernetes://one-cacert", false).unwrap();
        assert_ne!(first.version, second.version);
        let shown: Secret = envoy_api::unpack(&second.body).unwrap();
        let Some(Type::ValidationContext(context)) = shown.r#type else { panic!("no roots") };
        assert_eq!(context.trusted_ca.unwrap().specifier, Some(Specifier::InlineBytes(b"OWN".to_vec())));
        assert!(context.crl.is_none());
    }
}
