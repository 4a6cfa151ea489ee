//! Transport sockets: mesh mTLS by SDS, and TLS that a DestinationRule asks for.

use istio_api::edge::ServerTls;
use serde_json::{Value, json};

use crate::secrets;

const CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

/// A secret served by the agent's SDS.
pub(crate) fn sds(name: &str) -> Value {
    json!({
        "name": name,
        "sdsConfig": {
            "apiConfigSource": {
                "apiType": "GRPC",
                "grpcServices": [{"envoyGrpc": {"clusterName": "sds-grpc"}}],
                "setNodeOnFirstMessageOnly": true,
                "transportApiVersion": "V3"
            },
            "initialFetchTimeout": "0s",
            "resourceApiVersion": "V3"
        }
    })
}

/// A secret that the control plane itself sends, on the stream of everything else.
fn sent(name: &str) -> Value {
    json!({"name": name, "sdsConfig": {"ads": {}, "resourceApiVersion": "V3"}})
}

fn socket(context: Value) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typedConfig": context})
}

/// No TLS.
pub(crate) fn raw_buffer() -> Value {
    json!({
        "name": "envoy.transport_sockets.raw_buffer",
        "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}
    })
}

/// Mesh mTLS to an upstream whose certificate must carry one of `sans`; no `sans`: any workload of the mesh.
pub(crate) fn mesh_upstream(sans: &[String], sni: &str, alpn: &[&str]) -> Value {
    let mut checks = json!({});
    if !sans.is_empty() {
        checks["matchSubjectAltNames"] = sans.iter().map(|san| json!({"exact": san})).collect();
    }
    socket(json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "commonTlsContext": {
            "alpnProtocols": alpn,
            "combinedValidationContext": {
                "defaultValidationContext": checks,
                "validationContextSdsSecretConfig": sds("ROOTCA")
            },
            "tlsCertificateSdsSecretConfigs": [sds("default")],
            "tlsParams": {"tlsMaximumProtocolVersion": "TLSv1_3", "tlsMinimumProtocolVersion": "TLSv1_2"}
        },
        "sni": sni
    }))
}

/// Where the certificates of a DestinationRule are.
pub(crate) enum Certificates<'a> {
    /// In files of the client's pod.
    Files {
        /// Client certificate and key paths; both or neither.
        client: Option<(&'a str, &'a str)>,
        /// Path of the roots; none: the system's.
        roots: Option<&'a str>,
    },
    /// In a Secret of the client's namespace.
    Secret {
        /// Its name.
        name: &'a str,
        /// Whether a client certificate is shown.
        client: bool,
    },
}

impl Certificates<'_> {
    /// The secret of the client's certificate.
    fn certificate(&self) -> Option<Value> {
        match self {
            Self::Files { client, .. } => {
                client.map(|(certificate, key)| sds(&format!("file-cert:{certificate}~{key}")))
            }
            Self::Secret { name, client } => client.then(|| sent(&secrets::certificate(name))),
        }
    }

    /// The secret of the roots.
    fn roots(&self) -> Value {
        match self {
            Self::Files { roots: None, .. } => sds("file-root:system"),
            Self::Files { roots: Some(path), .. } => sds(&format!("file-root:{path}")),
            Self::Secret { name, .. } => sent(&secrets::roots(name)),
        }
    }
}

/// TLS as a DestinationRule describes it, with certificates of its own or none instead of the mesh's.
pub(crate) struct OwnTls<'a> {
    /// Where certificate, key and roots come from.
    pub certificates: Certificates<'a>,
    /// Path of the list of revoked certificates.
    pub revoked: Option<&'a str>,
    /// Names of which the server's certificate must carry one.
    pub sans: &'a [String],
    /// Server name to ask for.
    pub sni: &'a str,
    /// Whether the server's certificate is not verified.
    pub insecure: bool,
    /// ALPN to offer.
    pub alpn: &'a [&'a str],
}

impl OwnTls<'_> {
    /// The upstream transport socket.
    pub(crate) fn upstream(&self) -> Value {
        let mut common = json!({
            "tlsParams": {"tlsMaximumProtocolVersion": "TLSv1_3", "tlsMinimumProtocolVersion": "TLSv1_2"}
        });
        if !self.alpn.is_empty() {
            common["alpnProtocols"] = json!(self.alpn);
        }
        if let Some(certificate) = self.certificates.certificate() {
            common["tlsCertificateSdsSecretConfigs"] = json!([certificate]);
        }
        if !self.insecure {
            let mut checks = json!({});
            if !self.sans.is_empty() {
                checks["matchSubjectAltNames"] = self.sans.iter().map(|san| json!({"exact": san})).collect();
            }
            if let Some(path) = self.revoked {
                checks["crl"] = json!({"filename": path});
            }
            common["combinedValidationContext"] = json!({"defaultValidationContext": checks, "validationContextSdsSecretConfig": self.certificates.roots()});
        }
        let mut context = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "commonTlsContext": common
        });
        if !self.sni.is_empty() {
            context["sni"] = json!(self.sni);
        }
        socket(context)
    }
}

/// Mesh mTLS at the server: a client certificate of one of the trust domains is required.
pub(crate) fn mesh_downstream(trust_domains: &[&str], alpn: &[&str]) -> Value {
    let sans: Vec<Value> = trust_domains.iter().map(|td| json!({"prefix": format!("spiffe://{td}/")})).collect();
    socket(json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "commonTlsContext": {
            "alpnProtocols": alpn,
            "combinedValidationContext": {
                "defaultValidationContext": {"matchSubjectAltNames": sans},
                "validationContextSdsSecretConfig": sds("ROOTCA")
            },
            "tlsCertificateSdsSecretConfigs": [sds("default")],
            "tlsParams": {
                "cipherSuites": CIPHERS,
                "tlsMaximumProtocolVersion": "TLSv1_3",
                "tlsMinimumProtocolVersion": "TLSv1_2"
            }
        },
        "requireClientCertificate": true
    }))
}

/// TLS of callers outside the mesh, by files of the pod. Versions and suites are Envoy's where the user names none.
pub(crate) fn own_downstream(settings: &ServerTls) -> Value {
    let certificate = sds(&format!("file-cert:{}~{}", settings.server_certificate, settings.private_key));
    let mut common = json!({"alpnProtocols": ["h2", "http/1.1"], "tlsCertificateSdsSecretConfigs": [certificate]});
    let mode = settings.mode.as_deref().unwrap_or_default();
    if matches!(mode, "MUTUAL" | "OPTIONAL_MUTUAL") {
        let mut checks = json!({});
        if !settings.ca_crl.is_empty() {
            checks["crl"] = json!({"filename": settings.ca_crl});
        }
        common["combinedValidationContext"] = json!({
            "defaultValidationContext": checks,
            "validationContextSdsSecretConfig": sds(&format!("file-root:{}", settings.ca_certificates))
        });
    }
    let mut params = serde_json::Map::new();
    for (field, version) in [
        ("tlsMinimumProtocolVersion", &settings.min_protocol_version),
        ("tlsMaximumProtocolVersion", &settings.max_protocol_version),
    ] {
        let known = version.as_deref().and_then(|version| match version {
            "TLSV1_2" => Some("TLSv1_2"),
            "TLSV1_3" => Some("TLSv1_3"),
            _ => None,
        });
        params.extend(known.map(|known| (field.to_owned(), json!(known))));
    }
    if !settings.cipher_suites.is_empty() {
        params.insert("cipherSuites".to_owned(), json!(settings.cipher_suites));
    }
    if !params.is_empty() {
        common["tlsParams"] = Value::Object(params);
    }
    socket(json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "commonTlsContext": common,
        "requireClientCertificate": mode == "MUTUAL"
    }))
}
