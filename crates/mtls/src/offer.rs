//! What of TLS one context may use: versions, cipher suites, groups. The default is all that the provider has.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, SupportedProtocolVersion};

use crate::config::TlsError;

/// Limits of a context. What this side does not have at all cannot be offered, however often it is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// TLS 1.2 is refused.
    pub only_tls13: bool,
    /// TLS 1.3 is refused.
    pub only_tls12: bool,
    /// Cipher suites of TLS 1.2 by OpenSSL's names; none means all. Those of TLS 1.3 are not chosen (as in Envoy).
    pub suites: Vec<String>,
    /// Groups by the names that Envoy takes, such as `X25519` and `P-256`; none means all.
    pub groups: Vec<String>,
}

/// OpenSSL's names of the suites of TLS 1.2 that the provider has.
const SUITES: [(&str, rustls::CipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", rustls::CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Names of groups, as Envoy and BoringSSL have them.
const GROUPS: [(&str, NamedGroup); 5] = [
    ("X25519", NamedGroup::X25519),
    ("P-256", NamedGroup::secp256r1),
    ("P-384", NamedGroup::secp384r1),
    ("P-521", NamedGroup::secp521r1),
    ("X25519MLKEM768", NamedGroup::X25519MLKEM768),
];

impl Offer {
    pub(crate) fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static ONLY_TLS12: &[&SupportedProtocolVersion] = &[&TLS12];
        static ONLY_TLS13: &[&SupportedProtocolVersion] = &[&TLS13];
        match (self.only_tls12, self.only_tls13) {
            (true, _) => ONLY_TLS12,
            (false, true) => ONLY_TLS13,
            (false, false) => rustls::DEFAULT_VERSIONS,
        }
    }

    /// The provider cut down to the offer.
    pub(crate) fn provider(&self) -> Result<Arc<CryptoProvider>, TlsError> {
        let whole = crate::provider();
        if self.suites.is_empty() && self.groups.is_empty() {
            return Ok(whole);
        }
        let mut provider = (*whole).clone();
        if !self.suites.is_empty() {
            let named = |suite| SUITES.iter().any(|(n, s)| *s == suite && self.suites.iter().any(|given| given == n));
            provider.cipher_suites.retain(|suite| suite.tls13().is_some() || named(suite.suite()));
            if self.only_tls12 && provider.cipher_suites.iter().all(|s| s.tls13().is_some()) {
                return Err(TlsError::Config(format!("none of the cipher suites {:?} can be used", self.suites)));
            }
        }
        if !self.groups.is_empty() {
            let named = |group| GROUPS.iter().any(|(n, g)| *g == group && self.groups.iter().any(|given| given == n));
            provider.kx_groups.retain(|group| named(group.name()));
            if provider.kx_groups.is_empty() {
                return Err(TlsError::Config(format!("none of the groups {:?} can be used", self.groups)));
            }
        }
        Ok(Arc::new(provider))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_cuts_down_what_the_provider_has() {
        let all = crate::provider();
        let same = Offer::default().provider().unwrap();
        assert_eq!(same.cipher_suites.len(), all.cipher_suites.len());
        let suites = vec!["ECDHE-ECDSA-AES128-GCM-SHA256".to_owned(), "AES128-GCM-SHA256".to_owned()];
        let offer = Offer { suites, groups: vec!["P-256".to_owned()], ..Offer::default() };
        let cut = offer.provider().unwrap();
        let of_tls12: Vec<_> = cut.cipher_suites.iter().filter(|s| s.tls13().is_none()).map(|s| s.suite()).collect();
        assert_eq!(of_tls12, [rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]);
        assert_eq!(cut.kx_groups.iter().map(|g| g.name()).collect::<Vec<_>>(), [NamedGroup::secp256r1]);
        let none = Offer { groups: vec!["P-1".to_owned()], ..Offer::default() };
        assert!(none.provider().is_err());
        let none = Offer { only_tls12: true, suites: vec!["RC4".to_owned()], ..Offer::default() };
        assert!(none.provider().is_err());
    }
}
