//! Credentials of gateways: that they exist where the gateway's pods are, and hold a usable certificate.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::input::{Object, list, text, texts};
use crate::message::{Message, codes};
use crate::world::{World, labels, within};

/// Credentials that do not exist or cannot be served.
pub(super) fn credentials(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for gateway in world.networking("Gateway") {
        let named = names(gateway);
        if named.is_empty() {
            continue;
        }
        let Some(namespace) = namespace_of_pods(world, gateway) else {
            let text = "no pod has these labels, so nobody could read the Gateway's credentials; correct the selector";
            found.push(gateway.message(codes::REFERENCED_RESOURCE_NOT_FOUND, "/spec/selector", text));
            continue;
        };
        for (pointer, name) in named {
            let secret = world.core("Secret").iter().find(|s| s.name == name && s.namespace == namespace);
            match secret {
                None => {
                    let text = format!(
                        "there is no Secret {name} in {}; a credential must be in the namespace of the gateway's pods",
                        if namespace.is_empty() { "the pods' namespace" } else { namespace }
                    );
                    found.push(gateway.message(codes::REFERENCED_RESOURCE_NOT_FOUND, &pointer, text));
                }
                Some(secret) => {
                    if let Err(reason) = usable(secret) {
                        let text = format!("the Secret {name} cannot be served: {reason}");
                        found.push(gateway.message(codes::INVALID_GATEWAY_CREDENTIAL, &pointer, text));
                    }
                }
            }
        }
    }
    found
}

/// All credential names with their places; references to other kinds of stores are not Secrets.
fn names(gateway: &Object) -> Vec<(String, &str)> {
    let mut all = Vec::new();
    for (i, server) in gateway.list("/spec/servers").iter().enumerate() {
        let tls = format!("/spec/servers/{i}/tls");
        all.push((format!("{tls}/credentialName"), text(server, "/tls/credentialName")));
        for (j, name) in texts(server, "/tls/credentialNames").enumerate() {
            all.push((format!("{tls}/credentialNames/{j}"), name));
        }
    }
    all.retain(|(_, name)| !name.is_empty() && !name.contains("://"));
    all
}

/// Where the gateway's pods are. The gateways that Istio installs need not be among what is analysed.
fn namespace_of_pods<'a>(world: &'a World<'_>, gateway: &Object) -> Option<&'a str> {
    let selector = labels(gateway.value(), "/spec/selector");
    let pod = world.workloads.iter().find(|w| within(&selector, &w.labels));
    let stock = selector.get("istio").is_some_and(|v| ["ingressgateway", "egressgateway"].contains(v));
    pod.map(|p| p.object.namespace.as_str()).or(stock.then_some(world.root))
}

/// The key names a Secret of a gateway may have, certificate first.
const KEYS: [(&str, &str); 2] = [("tls.crt", "tls.key"), ("cert", "key")];

fn usable(secret: &Object) -> Result<(), String> {
    let has = |key: &str| value(secret, key).is_some();
    let (cert, key) = KEYS
        .into_iter()
        .find(|(cert, key)| has(cert) && has(key))
        .ok_or("it needs the keys tls.crt and tls.key (or cert and key)")?;
    let read = |key: &str| value(secret, key).ok_or_else(|| format!("{key} is no base64"))?;
    let (chain, key) = (read(cert)?, read(key)?);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|_| format!("{cert} is no certificate in PEM"))?;
    let leaf = chain.first().ok_or_else(|| format!("{cert} is no certificate in PEM"))?;
    PrivateKeyDer::from_pem_slice(&key).map_err(|_| "the key is no private key in PEM".to_owned())?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| format!("{cert} is no X.509 certificate"))?;
    let life = parsed.validity();
    if !life.is_valid() {
        return Err(format!("the certificate is valid from {} to {}; renew it", life.not_before, life.not_after));
    }
    Ok(())
}

/// The bytes under a key: `None` when it is not there, an error when they are not base64.
fn value(secret: &Object, key: &str) -> Option<Result<Vec<u8>, String>> {
    let at = |section: &str| secret.value().get(section)?.get(key)?.as_str();
    if let Some(plain) = at("stringData") {
        return Some(Ok(plain.as_bytes().to_vec()));
    }
    let encoded: String = at("data")?.split_whitespace().collect();
    use base64::Engine as _;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
    Some(decoded.map_err(|_| format!("{key} is no base64")))
}

/// Services of names that a mesh network's endpoints are taken from, and that nobody has registered.
pub(super) fn networks(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    let mut registries: Vec<&str> = vec!["Kubernetes"];
    for secret in world.core("Secret").iter().filter(|s| s.label("istio/multiCluster") == Some("true")) {
        for section in ["data", "stringData"] {
            let keys = secret.value().get(section).and_then(Value::as_object);
            registries.extend(keys.into_iter().flatten().map(|(k, _)| k.as_str()));
        }
    }
    let Some(networks) = world.networks else { return found };
    let all = networks.value().get("networks").and_then(Value::as_object);
    for (name, network) in all.into_iter().flatten() {
        for (i, endpoints) in list(network, "/endpoints").iter().enumerate() {
            let from = text(endpoints, "/fromRegistry");
            if !from.is_empty() && !registries.contains(&from) {
                let pointer = format!("/networks/{name}/endpoints/{i}/fromRegistry");
                let text = format!(
                    "no cluster is called \"{from}\"; the network {name} gets no endpoints from it. Known are {}",
                    registries.join(", ")
                );
                found.push(networks.message(codes::UNKNOWN_MESH_NETWORKS_SERVICE_REGISTRY, &pointer, text));
            }
        }
    }
    found
}
