//! TLS that a sidecar ends for callers outside the mesh: what Istio takes at a Sidecar's ingress, and what is built of it.

use super::FieldError;
use crate::edge::ServerTls;

/// Names of suites that Istio knows (OpenSSL's).
const SUITES: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

/// TLS of an ingress listener whose port is of this protocol.
pub(super) fn ingress(tls: &ServerTls, protocol: &str, at: &str, found: &mut Vec<FieldError>) {
    let mut no = |field: &str, message: String| found.push(FieldError::new(&format!("{at}/{field}"), message));
    let mode = tls.mode.as_deref().unwrap_or("PASSTHROUGH");
    let verifies = matches!(mode, "MUTUAL" | "OPTIONAL_MUTUAL");
    if !verifies && mode != "SIMPLE" {
        no("mode", format!("a sidecar ends TLS of mode SIMPLE, MUTUAL or OPTIONAL_MUTUAL, not {mode}"));
    }
    if !["HTTPS", "TLS"].contains(&protocol.to_ascii_uppercase().as_str()) {
        no("mode", "TLS needs a port of protocol HTTPS or TLS".to_owned());
    }
    let refused = [
        (
            "subjectAltNames",
            !tls.subject_alt_names.is_empty(),
            "Istio checks no names of callers here; use an AuthorizationPolicy",
        ),
        ("httpsRedirect", tls.https_redirect, "a sidecar redirects nobody to HTTPS"),
        ("credentialName", !tls.credential_name.is_empty(), "Istio takes no Secret here; use files of the pod"),
        ("credentialNames", !tls.credential_names.is_empty(), "Istio takes no Secrets here; use files of the pod"),
        (
            "caCertCredentialName",
            !tls.ca_cert_credential_name.is_empty(),
            "Istio takes no Secret here; use caCertificates",
        ),
        (
            "tlsCertificates",
            !tls.tls_certificates.is_empty(),
            "Istio takes one certificate here: serverCertificate and privateKey",
        ),
        (
            "verifyCertificateSpki",
            !tls.verify_certificate_spki.is_empty(),
            "Istio does not look at this here; use caCertificates",
        ),
        (
            "verifyCertificateHash",
            !tls.verify_certificate_hash.is_empty(),
            "Istio does not look at this here; use caCertificates",
        ),
        ("ecdhCurves", !tls.ecdh_curves.is_empty(), "Istio's servers have no such field"),
        (
            "insecureSkipVerify",
            tls.insecure_skip_verify == Some(true),
            "certificates of callers are always verified; use SIMPLE to ask for none",
        ),
        (
            "caCrl",
            !tls.ca_crl.is_empty() && !verifies,
            "who is asked for no certificate can have none revoked; use MUTUAL",
        ),
        (
            "serverCertificate",
            tls.server_certificate.is_empty(),
            "a server needs a certificate: the path of a file of the pod",
        ),
        ("privateKey", tls.private_key.is_empty(), "a server needs a private key: the path of a file of the pod"),
        ("caCertificates", verifies && tls.ca_certificates.is_empty(), "to verify callers a file of roots is needed"),
    ];
    for (field, _, message) in refused.into_iter().filter(|(_, wrong, _)| *wrong) {
        no(field, message.to_owned());
    }
    let level = |version: Option<&str>| match version {
        None | Some("TLS_AUTO") => Ok(None),
        Some("TLSV1_2") => Ok(Some(2)),
        Some("TLSV1_3") => Ok(Some(3)),
        Some("TLSV1_0" | "TLSV1_1") => Err("TLS before 1.2 is not built".to_owned()),
        Some(other) => Err(format!("unknown version \"{other}\"; use TLS_AUTO, TLSV1_2 or TLSV1_3")),
    };
    match (level(tls.min_protocol_version.as_deref()), level(tls.max_protocol_version.as_deref())) {
        (Ok(Some(3)), Ok(Some(2))) => {
            no("maxProtocolVersion", "the newest version is older than the oldest".to_owned())
        }
        (low, high) => {
            low.err().into_iter().for_each(|message| no("minProtocolVersion", message));
            high.err().into_iter().for_each(|message| no("maxProtocolVersion", message));
        }
    }
    for (i, suite) in tls.cipher_suites.iter().enumerate() {
        if !SUITES.contains(&suite.as_str()) {
            no(&format!("cipherSuites/{i}"), format!("\"{suite}\" is not a suite that Istio knows"));
        } else if tls.cipher_suites.iter().take(i).any(|other| other == suite) {
            no(&format!("cipherSuites/{i}"), format!("\"{suite}\" is there twice"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The fields that are wrong.
    fn wrong(protocol: &str, more: Value) -> Vec<String> {
        let mut spec = json!({"mode": "SIMPLE", "serverCertificate": "/a", "privateKey": "/b"});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let mut found = Vec::new();
        ingress(&serde_json::from_value(spec).unwrap(), protocol, "", &mut found);
        found.into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn what_istio_refuses_is_refused_and_what_is_not_built() {
        assert!(wrong("HTTPS", json!({})).is_empty());
        assert!(wrong("tls", json!({"minProtocolVersion": "TLSV1_3", "cipherSuites": ["AES128-SHA"]})).is_empty());
        let mutual = json!({"mode": "MUTUAL", "caCertificates": "/c", "caCrl": "/d", "maxProtocolVersion": "TLSV1_2"});
        assert!(wrong("TLS", mutual).is_empty());
        for (protocol, more, field) in [
            ("HTTP", json!({}), "/mode"),
            ("HTTPS", json!({"mode": null}), "/mode"),
            ("HTTPS", json!({"mode": "PASSTHROUGH"}), "/mode"),
            ("HTTPS", json!({"mode": "AUTO_PASSTHROUGH"}), "/mode"),
            ("HTTPS", json!({"mode": "ISTIO_MUTUAL"}), "/mode"),
            ("HTTPS", json!({"mode": "MUTUAL"}), "/caCertificates"),
            ("HTTPS", json!({"mode": "OPTIONAL_MUTUAL"}), "/caCertificates"),
            ("HTTPS", json!({"caCrl": "/d"}), "/caCrl"),
            ("HTTPS", json!({"serverCertificate": ""}), "/serverCertificate"),
            ("HTTPS", json!({"privateKey": ""}), "/privateKey"),
            ("HTTPS", json!({"subjectAltNames": ["a"]}), "/subjectAltNames"),
            ("HTTPS", json!({"httpsRedirect": true}), "/httpsRedirect"),
            ("HTTPS", json!({"credentialName": "a"}), "/credentialName"),
            ("HTTPS", json!({"credentialNames": ["a"]}), "/credentialNames"),
            ("HTTPS", json!({"caCertCredentialName": "a"}), "/caCertCredentialName"),
            ("HTTPS", json!({"tlsCertificates": [{}]}), "/tlsCertificates"),
            ("HTTPS", json!({"verifyCertificateSpki": ["a"]}), "/verifyCertificateSpki"),
            ("HTTPS", json!({"verifyCertificateHash": ["a"]}), "/verifyCertificateHash"),
            ("HTTPS", json!({"ecdhCurves": ["a"]}), "/ecdhCurves"),
            ("HTTPS", json!({"insecureSkipVerify": true}), "/insecureSkipVerify"),
            ("HTTPS", json!({"minProtocolVersion": "TLSV1_1"}), "/minProtocolVersion"),
            ("HTTPS", json!({"maxProtocolVersion": "SSLV3"}), "/maxProtocolVersion"),
            ("HTTPS", json!({"minProtocolVersion": "TLSV1_3", "maxProtocolVersion": "TLSV1_2"}), "/maxProtocolVersion"),
            ("HTTPS", json!({"cipherSuites": ["RC4"]}), "/cipherSuites/0"),
            ("HTTPS", json!({"cipherSuites": ["AES128-SHA", "AES128-SHA"]}), "/cipherSuites/1"),
        ] {
            assert_eq!(wrong(protocol, more.clone()), [field], "{protocol} {more}");
        }
    }
}
