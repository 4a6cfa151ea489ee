//! A self-signed root before its end: the same name and key in a new certificate, so that what was signed below the old
//! one is good below the new one too.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::X509Certificate;
use x509_parser::x509::X509Name;

use crate::authority::{AuthorityError, SKEW};

/// When a self-signed root is renewed, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Between two looks (Istio's `CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL`); zero: it is never renewed.
    pub check: Duration,
    /// The last part of its life, in per cent, in which it is renewed
    /// (`CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE`).
    pub grace_percent: u8,
    /// Life of the new one (`CITADEL_SELF_SIGNED_CA_CERT_TTL`).
    pub life: Duration,
}

impl Default for Renewal {
    /// Istio's values.
    fn default() -> Self {
        Self { check: Duration::from_secs(3600), grace_percent: 20, life: crate::authority::ROOT_LIFE }
    }
}

impl Renewal {
    /// The certificate (PEM) that takes the place of `cert` at `now`; `None` while it is not time, or where another
    /// authority vouches for it: that one is asked for a new one by people.
    ///
    /// # Errors
    /// When certificate or key are unusable.
    pub fn renewed(&self, cert: &str, key: &str, now: OffsetDateTime) -> Result<Option<String>, AuthorityError> {
        let unusable = |reason: String| AuthorityError::Unusable(reason);
        let (_, pem) = x509_parser::pem::parse_x509_pem(cert.as_bytes()).map_err(|e| unusable(e.to_string()))?;
        let old = pem.parse_x509().map_err(|e| unusable(e.to_string()))?;
        if old.subject().as_raw() != old.issuer().as_raw() || !self.is_due(&old, now) {
            return Ok(None);
        }
        let key = KeyPair::from_pem(key).map_err(|e| unusable(e.to_string()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = same_name(old.subject())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        if let Some(id) = key_identifier(&old) {
            params.key_identifier_method = KeyIdMethod::PreSpecified(id);
        }
        // One key gives one serial number where none is chosen; two certificates of one name must differ in it.
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial).map_err(|e| unusable(e.to_string()))?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = now - SKEW;
        params.not_after = now + self.life;
        let new = params.self_signed(&key).map_err(|e| unusable(e.to_string()))?;
        Ok(Some(new.pem()))
    }

    fn is_due(&self, cert: &X509Certificate<'_>, now: OffsetDateTime) -> bool {
        let validity = cert.validity();
        let (from, to) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        let grace = (to - from) * f64::from(self.grace_percent) / 100.0;
        now >= to - grace
    }
}

/// By its bytes, as certificates are chained; so the kind of each string is kept.
fn same_name(name: &X509Name<'_>) -> Result<DistinguishedName, AuthorityError> {
    let mut same = DistinguishedName::new();
    for part in name.iter_attributes() {
        let unusable = || AuthorityError::Unusable(format!("its subject {name} has a part that cannot be kept"));
        let text = part.attr_value().as_bytes();
        let text = std::str::from_utf8(text).map_err(|_| unusable())?;
        let value = match part.attr_value().header.tag() {
            Tag::PrintableString => DnValue::PrintableString(text.try_into().map_err(|_| unusable())?),
            Tag::Ia5String => DnValue::Ia5String(text.try_into().map_err(|_| unusable())?),
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            _ => return Err(unusable()),
        };
        let oid: Vec<u64> = part.attr_type().iter().ok_or_else(unusable)?.collect();
        same.push(DnType::from_oid(&oid), value);
    }
    Ok(same)
}

fn key_identifier(cert: &X509Certificate<'_>) -> Option<Vec<u8>> {
    cert.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Istio makes them: the organisation as a PrintableString, an identifier of the key of its own.
    fn root(from: OffsetDateTime, life: Duration) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let organisation = DnValue::PrintableString("cluster.local".try_into().unwrap());
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 20]);
        (params.not_before, params.not_after) = (from, from + life);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn it_is_renewed_in_the_last_part_of_its_life_only() {
        let now = OffsetDateTime::now_utc();
        let hour = Duration::from_secs(3600);
        let (cert, key) = root(now, hour * 100);
        let renewal = Renewal::default();
        assert_eq!(renewal.renewed(&cert, &key, now + hour * 79).unwrap(), None);
        assert!(renewal.renewed(&cert, &key, now + hour * 81).unwrap().is_some());
        assert!(renewal.renewed(&cert, &key, now + hour * 101).unwrap().is_some(), "better late than never");
        assert!(renewal.renewed("nonsense", &key, now).is_err());
    }

    #[test]
    fn name_key_and_its_identifier_stay() {
        let now = OffsetDateTime::now_utc();
        let (cert, key) = root(now, Duration::from_secs(60));
        let life = Duration::from_secs(365 * 24 * 3600);
        let new = Renewal { life, ..Renewal::default() }
            .renewed(&cert, &key, now + Duration::from_secs(50))
            .unwrap()
            .unwrap();
        let (_, old) = x509_parser::pem::parse_x509_pem(cert.as_bytes()).unwrap();
        let (_, new) = x509_parser::pem::parse_x509_pem(new.as_bytes()).unwrap();
        let (old, new) = (old.parse_x509().unwrap(), new.parse_x509().unwrap());
        assert_eq!(old.subject().as_raw(), new.subject().as_raw());
        assert_eq!(old.public_key().raw, new.public_key().raw);
        assert_eq!(key_identifier(&old), key_identifier(&new));
        assert_ne!(old.raw_serial(), new.raw_serial());
        assert!(new.is_ca());
        let until = new.validity().not_after.to_datetime();
        assert!(until > now + life && until <= now + life + Duration::from_secs(60), "{until}");
    }

    #[test]
    fn one_that_another_vouches_for_is_left_alone() {
        let now = OffsetDateTime::now_utc();
        let (cert, key) = root(now, Duration::from_secs(3600));
        let issuer = rcgen::Issuer::from_ca_cert_pem(&cert, KeyPair::from_pem(&key).unwrap()).unwrap();
        let below = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = now;
        let signed = params.signed_by(&below, &issuer).unwrap().pem();
        assert_eq!(Renewal::default().renewed(&signed, &below.serialize_pem(), now).unwrap(), None);
    }
}
