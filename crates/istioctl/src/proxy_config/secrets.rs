//! Secrets: certificates in use, those waited for, and roots.

use base64::Engine as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::dump::{at, list, section, text};
use crate::table::{WIDE, columns, row};

/// One certificate of a secret.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub name: String,
    kind: &'static str,
    state: &'static str,
    certificate: Option<Certificate>,
    pub trust_domain: String,
}

#[derive(Debug)]
struct Certificate {
    serial: String,
    not_before: String,
    not_after: String,
    valid: bool,
    trust_domain: String,
}

/// All certificates of a dump: those that are waited for first, as Istio lists them.
pub(crate) fn rows(dump: &Value) -> Vec<Row> {
    let Some(section) = section(dump, "SecretsConfigDump") else { return Vec::new() };
    let states =
        [("dynamic_warming_secrets", "WARMING"), ("dynamic_active_secrets", "ACTIVE"), ("static_secrets", "ACTIVE")];
    let mut all = Vec::new();
    for (field, state) in states {
        for entry in list(section, field) {
            all.extend(of(entry, state));
        }
    }
    all
}

fn of(entry: &Value, state: &'static str) -> Vec<Row> {
    let secret = at(entry, "secret");
    let name = match text(entry, "name") {
        "" => text(secret, "name"),
        name => name,
    };
    let base = |kind| Row { name: name.to_owned(), kind, state, ..Row::default() };
    let chain = at(secret, "tls_certificate.certificate_chain");
    let context = at(secret, "validation_context");
    if !chain.is_null() {
        return vec![Row { certificate: first(chain), ..base("Cert Chain") }];
    }
    // SPIRE gives one set of roots for each trust domain.
    let domains = list(context, "custom_validator_config.typed_config.trust_domains");
    if !domains.is_empty() {
        let one = |domain: &Value| Row {
            certificate: first(at(domain, "trust_bundle")),
            trust_domain: text(domain, "name").to_owned(),
            ..base("CA")
        };
        return domains.iter().map(one).collect();
    }
    match at(context, "trusted_ca") {
        Value::Null => vec![base("")],
        roots => vec![Row { certificate: first(roots), ..base("CA") }],
    }
}

/// The first certificate of a data source, whose trust domain is in its name.
fn first(source: &Value) -> Option<Certificate> {
    let pem = match (text(source, "inline_bytes"), text(source, "inline_string")) {
        ("", "") => std::fs::read(text(source, "filename")).ok()?,
        ("", plain) => plain.as_bytes().to_vec(),
        (encoded, _) => base64::engine::general_purpose::STANDARD.decode(encoded).ok()?,
    };
    let der = CertificateDer::pem_slice_iter(&pem).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let time = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
    let life = certificate.validity();
    Some(Certificate {
        serial: certificate.raw_serial().iter().skip_while(|b| **b == 0).map(|b| format!("{b:02x}")).collect(),
        not_before: time(life.not_before.to_datetime()),
        not_after: time(life.not_after.to_datetime()),
        valid: life.is_valid(),
        trust_domain: trust_domain(&certificate).unwrap_or_default(),
    })
}

/// The trust domain of a certificate's SPIFFE identity.
fn trust_domain(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://")?.split('/').next().map(str::to_owned),
        _ => None,
    })
}

/// As a table; trust domains are shown where any is known.
pub(crate) fn table(rows: &[Row], named: bool) -> String {
    let mut head = row(["RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"]);
    let domains = rows.iter().any(|r| !r.trust_domain.is_empty());
    if domains {
        head.push("TRUST DOMAIN".to_owned());
    }
    let cells = rows.iter().map(|r| {
        let of = |f: fn(&Certificate) -> String| r.certificate.as_ref().map(f).unwrap_or_default();
        let name = if named { format!("secret/{}", r.name) } else { r.name.clone() };
        let mut cells = vec![
            name,
            r.kind.to_owned(),
            r.state.to_owned(),
            r.certificate.as_ref().is_some_and(|c| c.valid).to_string(),
            of(|c| c.serial.clone()),
            of(|c| c.not_after.clone()),
            of(|c| c.not_before.clone()),
        ];
        if domains {
            let own = if r.trust_domain.is_empty() { of(|c| c.trust_domain.clone()) } else { r.trust_domain.clone() };
            cells.push(own);
        }
        cells
    });
    columns(&std::iter::once(head).chain(cells).collect::<Vec<_>>(), WIDE)
}

/// For machines: the section of the dump, without private keys.
pub(crate) fn value(dump: &Value) -> Value {
    let mut section = section(dump, "SecretsConfigDump").cloned().unwrap_or_else(|| json!({}));
    hide_keys(&mut section);
    super::dump::camel(&section)
}

/// Puts Envoy's word for what it hides where private keys stand.
pub(crate) fn hide_keys(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map.iter_mut() {
                match key.as_str() {
                    "private_key" | "privateKey" => *inner = json!({"inline_bytes": "W3JlZGFjdGVkXQ=="}),
                    _ => hide_keys(inner),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_keys),
        _ => {}
    }
}
