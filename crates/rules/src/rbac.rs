//! Authorization: Envoy's RBAC policies, compiled.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::RequestView;
use crate::claims::ClaimMatch;
use crate::matching::{HeaderMatch, StringMatch};

/// What a decision may look at; below HTTP there is no request.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// The request, at HTTP level.
    pub request: Option<RequestView<'a>>,
    /// Normalised path without query.
    pub path: &'a str,
    /// URI names of the verified peer certificate; empty without mTLS.
    pub peer: &'a [String],
    /// Whether the peer showed a verified certificate.
    pub authenticated: bool,
    /// The other end of the connection.
    pub direct_remote: SocketAddr,
    /// The original client (x-forwarded-for, PROXY protocol); the connection's other end when there is none.
    pub remote: IpAddr,
    /// The address the client dialled.
    pub local: SocketAddr,
    /// Server name of the TLS hello.
    pub sni: &'a str,
    /// Claims of verified tokens, by the name under which they are kept.
    pub claims: Option<&'a Map<String, Value>>,
}

/// What a policy asks of the caller.
#[derive(Clone, Debug)]
pub enum Principal {
    /// Nothing.
    Any,
    /// All of these.
    And(Vec<Principal>),
    /// One of these.
    Or(Vec<Principal>),
    /// Not this.
    Not(Box<Principal>),
    /// A verified certificate, with a name that matches when one is given.
    Authenticated(Option<StringMatch>),
    /// The other end of the connection.
    DirectIp(IpNet),
    /// The original client.
    RemoteIp(IpNet),
    /// A header.
    Header(HeaderMatch),
    /// The path.
    Path(StringMatch),
    /// A claim of a verified token.
    Claim(ClaimMatch),
}

/// What a policy asks of the operation.
#[derive(Clone, Debug)]
pub enum Permission {
    /// Nothing.
    Any,
    /// All of these.
    And(Vec<Permission>),
    /// One of these.
    Or(Vec<Permission>),
    /// Not this.
    Not(Box<Permission>),
    /// A header.
    Header(HeaderMatch),
    /// The path.
    Path(StringMatch),
    /// Address dialled.
    DestinationIp(IpNet),
    /// Ports dialled, from inclusive to exclusive.
    DestinationPorts(u16, u32),
    /// Server name of the TLS hello.
    Sni(StringMatch),
    /// A claim of a verified token.
    Claim(ClaimMatch),
}

/// One named policy: one of its permissions and one of its principals.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `ns[NS]-policy[NAME]-rule[I]` from Istio.
    pub name: Arc<str>,
    /// One of these.
    pub permissions: Vec<Permission>,
    /// And one of these.
    pub principals: Vec<Principal>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Only what matches may pass.
    Allow,
    /// What matches may not pass.
    Deny,
    /// Nothing is decided.
    Log,
}

/// A verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may pass.
    pub allowed: bool,
    /// The policy that decided; none when no policy matched.
    pub policy: Option<Arc<str>>,
}

/// All policies of one filter.
#[derive(Clone, Debug)]
pub struct Engine {
    /// What a match means.
    pub effect: Effect,
    /// In order of name.
    pub policies: Vec<Policy>,
}

impl Engine {
    /// The verdict.
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let matched = self.policies.iter().find(|p| p.is_match(attributes)).map(|p| p.name.clone());
        let allowed = match self.effect {
            Effect::Allow => matched.is_some(),
            Effect::Deny => matched.is_none(),
            Effect::Log => true,
        };
        Decision { allowed, policy: matched }
    }
}

impl Policy {
    fn is_match(&self, attributes: &Attributes<'_>) -> bool {
        self.permissions.iter().any(|p| p.is_match(attributes))
            && self.principals.iter().any(|p| p.is_match(attributes))
    }
}

impl Principal {
    fn is_match(&self, at: &Attributes<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::And(all) => all.iter().all(|p| p.is_match(at)),
            Self::Or(any) => any.iter().any(|p| p.is_match(at)),
            Self::Not(inner) => !inner.is_match(at),
            Self::Authenticated(None) => at.authenticated,
            Self::Authenticated(Some(name)) => at.authenticated && at.peer.iter().any(|uri| name.is_match(uri)),
            Self::DirectIp(net) => net.contains(&at.direct_remote.ip()),
            Self::RemoteIp(net) => net.contains(&at.remote),
            Self::Header(header) => at.request.is_some_and(|r| header.is_match(&r)),
            Self::Path(path) => at.request.is_some() && path.is_match(at.path),
            Self::Claim(claim) => claim.is_match(at.claims),
        }
    }
}

impl Permission {
    fn is_match(&self, at: &Attributes<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::And(all) => all.iter().all(|p| p.is_match(at)),
            Self::Or(any) => any.iter().any(|p| p.is_match(at)),
            Self::Not(inner) => !inner.is_match(at),
            Self::Header(header) => at.request.is_some_and(|r| header.is_match(&r)),
            Self::Path(path) => at.request.is_some() && path.is_match(at.path),
            Self::DestinationIp(net) => net.contains(&at.local.ip()),
            Self::DestinationPorts(from, to) => (u32::from(*from)..*to).contains(&u32::from(at.local.port())),
            Self::Sni(name) => name.is_match(at.sni),
            Self::Claim(claim) => claim.is_match(at.claims),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(peer: &'a [String], local: &str) -> Attributes<'a> {
        Attributes {
            request: None,
            path: "",
            peer,
            authenticated: !peer.is_empty(),
            direct_remote: "10.0.0.9:1234".parse().unwrap(),
            remote: "10.0.0.9".parse().unwrap(),
            local: local.parse().unwrap(),
            sni: "",
            claims: None,
        }
    }

    fn engine(effect: Effect) -> Engine {
        let name = StringMatch::Exact("spiffe://cluster.local/ns/production/sa/payment".into());
        Engine {
            effect,
            policies: vec![Policy {
                name: "ns[production]-policy[database]-rule[0]".into(),
                permissions: vec![Permission::DestinationPorts(5432, 5433)],
                principals: vec![Principal::Authenticated(Some(name))],
            }],
        }
    }

    #[test]
    fn only_the_named_account_reaches_the_named_port() {
        let payment = ["spiffe://cluster.local/ns/production/sa/payment".to_owned()];
        let order = ["spiffe://cluster.local/ns/production/sa/order".to_owned()];
        let longer = ["spiffe://cluster.local/ns/production/sa/payment-evil".to_owned()];
        let allow = engine(Effect::Allow);
        let verdict = allow.decide(&at(&payment, "10.0.0.1:5432"));
        assert_eq!(
            (verdict.allowed, verdict.policy.as_deref()),
            (true, Some("ns[production]-policy[database]-rule[0]"))
        );
        assert!(!allow.decide(&at(&payment, "10.0.0.1:5433")).allowed);
        assert!(!allow.decide(&at(&order, "10.0.0.1:5432")).allowed);
        assert!(!allow.decide(&at(&longer, "10.0.0.1:5432")).allowed);
        assert!(!allow.decide(&at(&[], "10.0.0.1:5432")).allowed);
        assert!(engine(Effect::Deny).decide(&at(&order, "10.0.0.1:5432")).allowed);
        assert!(!engine(Effect::Deny).decide(&at(&payment, "10.0.0.1:5432")).allowed);
    }

    #[test]
    fn http_conditions_never_match_below_http() {
        let header = HeaderMatch {
            key: crate::matching::HeaderKey::Method,
            value: crate::matching::HeaderValueMatch::Text(StringMatch::Exact("GET".into())),
            invert: false,
            missing_is_empty: false,
        };
        let mut deny = engine(Effect::Deny);
        deny.policies[0].permissions = vec![Permission::Header(header)];
        deny.policies[0].principals = vec![Principal::Any];
        assert!(deny.decide(&at(&[], "10.0.0.1:80")).allowed);
    }
}
