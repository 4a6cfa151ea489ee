//! `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`, the identity of a workload in Istio.

use std::fmt;
use std::str::FromStr;

/// A workload identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// Who vouches for it, such as `cluster.local`.
    pub trust_domain: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes service account.
    pub service_account: String,
}

/// Why a text is not a workload identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an identity of the form spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT")]
pub struct SpiffeError(pub String);

impl SpiffeId {
    /// The identity of a service account.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        Self {
            trust_domain: trust_domain.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        }
    }

    /// Istio's principal: the identity without its scheme.
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let wrong = || SpiffeError(text.to_owned());
        let path = text.strip_prefix("spiffe://").ok_or_else(wrong)?;
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            [trust_domain, "ns", namespace, "sa", account]
                if [trust_domain, namespace, account].iter().all(|part| is_segment(part)) =>
            {
                Ok(Self::new(trust_domain, namespace, account))
            }
            _ => Err(wrong()),
        }
    }
}

/// The SPIFFE specification's path segment characters; never empty, `.` or `..`.
fn is_segment(part: &str) -> bool {
    !matches!(part, "" | "." | "..")
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_workload_identities_are_read() {
        let id: SpiffeId = "spiffe://cluster.local/ns/production/sa/payment".parse().unwrap();
        assert_eq!(id, SpiffeId::new("cluster.local", "production", "payment"));
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/production/sa/payment");
        assert_eq!(id.principal(), "cluster.local/ns/production/sa/payment");
        for bad in [
            "",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe:///ns/a/sa/b",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a%2fb/sa/c",
            "spiffe://cluster.local/sa/b/ns/a",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
