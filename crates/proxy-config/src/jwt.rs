//! The `jwt_authn` filter.

use std::sync::Arc;

use ::http::HeaderName;
use envoy_api::envoy::config::route::v3::{RouteMatch, route_match::PathSpecifier};
use envoy_api::envoy::extensions::filters::http::jwt_authn::v3 as proto;
use jwt::{ClaimHeader, KeySet, Location, Policy, Provider, Requirement};

use crate::common::data_source;
use crate::context::{Refusal, Result, Under};
use crate::protocol::refuse_set;

/// Requirements within requirements are followed this deep.
const MAX_DEPTH: u32 = 16;
/// Envoy's default for clocks that differ, seconds.
const SKEW: u32 = 60;

pub(crate) fn compile(proto: &proto::JwtAuthentication) -> Result<Policy> {
    let unsupported = [
        ("filter_state_rules", proto.filter_state_rules.is_some()),
        ("requirement_map", !proto.requirement_map.is_empty()),
        ("strip_failure_response", proto.strip_failure_response),
        ("stat_prefix", !proto.stat_prefix.is_empty()),
    ];
    if let Some((field, _)) = unsupported.iter().find(|(_, used)| *used) {
        return Err(Refusal::unsupported(field));
    }
    let mut names: Vec<&String> = proto.providers.keys().collect();
    names.sort();
    let providers = names
        .iter()
        .map(|name| provider(&proto.providers[*name]).under(format!("providers[{name}]")))
        .collect::<Result<Vec<_>>>()?;
    let place = |name: &str| {
        names
            .iter()
            .position(|n| *n == name)
            .ok_or_else(|| Refusal::new("provider_name", format!("there is no provider \"{name}\"")))
    };
    let rules = proto.rules.iter().map(|rule| self::rule(rule, &place)).collect::<Result<Vec<_>>>().under("rules")?;
    Ok(Policy { providers, rules, bypass_preflight: proto.bypass_cors_preflight })
}

type Rule = (Box<str>, Option<Requirement>);

fn rule(rule: &proto::RequirementRule, place: &dyn Fn(&str) -> Result<usize>) -> Result<Rule> {
    use proto::requirement_rule::RequirementType as R;
    let prefix = rule.r#match.as_ref().map_or(Ok("/"), prefix).under("match")?;
    let asked = match &rule.requirement_type {
        Some(R::Requires(requirement)) => Some(self::requirement(requirement, place, 0).under("requires")?),
        Some(R::RequirementName(_)) => return Err(Refusal::unsupported("requirement_name")),
        None => None,
    };
    Ok((prefix.into(), asked))
}

/// Only a prefix of the path may be asked for, which is what Istio writes.
fn prefix(matches: &RouteMatch) -> Result<&str> {
    match &matches.path_specifier {
        Some(PathSpecifier::Prefix(prefix))
            if *matches == RouteMatch { path_specifier: matches.path_specifier.clone(), ..RouteMatch::default() } =>
        {
            Ok(prefix)
        }
        _ => Err(Refusal::new("path_specifier", "only a prefix is supported here")),
    }
}

fn requirement(
    proto: &proto::JwtRequirement,
    place: &dyn Fn(&str) -> Result<usize>,
    depth: u32,
) -> Result<Requirement> {
    use proto::jwt_requirement::RequiresType as R;
    if depth > MAX_DEPTH {
        return Err(Refusal::new("requires", "is nested too deeply"));
    }
    let list = |all: &[proto::JwtRequirement]| {
        all.iter().map(|r| requirement(r, place, depth + 1)).collect::<Result<Vec<_>>>()
    };
    Ok(match &proto.requires_type {
        Some(R::ProviderName(name)) => Requirement::Provider(place(name)?),
        Some(R::ProviderAndAudiences(_)) => return Err(Refusal::unsupported("provider_and_audiences")),
        Some(R::RequiresAny(any)) => Requirement::Any(list(&any.requirements).under("requires_any")?),
        Some(R::RequiresAll(all)) => Requirement::All(list(&all.requirements).under("requires_all")?),
        Some(R::AllowMissing(_)) => Requirement::AllowMissing,
        Some(R::AllowMissingOrFailed(_)) => Requirement::AllowFailed,
        Some(R::ExtractOnlyWithoutValidation(_)) => {
            return Err(Refusal::unsupported("extract_only_without_validation"));
        }
        None => return Err(Refusal::new("requires_type", "is missing")),
    })
}

fn provider(proto: &proto::JwtProvider) -> Result<Provider> {
    use proto::jwt_provider::JwksSourceSpecifier as J;
    let unsupported = [
        ("subjects", proto.subjects.is_some()),
        ("require_expiration", proto.require_expiration),
        ("max_lifetime", proto.max_lifetime.is_some()),
        ("clear_route_cache", proto.clear_route_cache),
        ("header_in_metadata", !proto.header_in_metadata.is_empty()),
        ("failed_status_in_metadata", !proto.failed_status_in_metadata.is_empty()),
    ];
    if let Some((field, _)) = unsupported.iter().find(|(_, used)| *used) {
        return Err(Refusal::unsupported(field));
    }
    let keys = match &proto.jwks_source_specifier {
        Some(J::LocalJwks(source)) => {
            let text = data_source(Some(source)).under("local_jwks")?;
            KeySet::parse(&text).map_err(|e| Refusal::new("local_jwks", e))?
        }
        Some(J::RemoteJwks(_)) => return Err(Refusal::unsupported("remote_jwks")),
        None => return Err(Refusal::new("jwks_source_specifier", "is missing")),
    };
    Ok(Provider {
        issuer: proto.issuer.as_str().into(),
        audiences: proto.audiences.clone(),
        keys: Arc::new(keys),
        locations: locations(proto)?,
        forward: proto.forward,
        payload_header: Some(&proto.forward_payload_header).filter(|n| !n.is_empty()).map(|n| header(n)).transpose()?,
        pad_payload: proto.pad_forward_payload_header,
        claim_headers: proto
            .claim_to_headers
            .iter()
            .map(|copy| {
                refuse_set!(copy; claim_path)?;
                let claim = copy.claim_name.split('.').map(str::to_owned).collect();
                Ok(ClaimHeader { header: header(&copy.header_name)?, claim })
            })
            .collect::<Result<_>>()
            .under("claim_to_headers")?,
        metadata: proto.payload_in_metadata.as_str().into(),
        space_delimited: proto
            .normalize_payload_in_metadata
            .as_ref()
            .map(|n| n.space_delimited_claims.clone())
            .unwrap_or_default(),
        skew: u64::from(if proto.clock_skew_seconds == 0 { SKEW } else { proto.clock_skew_seconds }),
    })
}

fn locations(proto: &proto::JwtProvider) -> Result<Vec<Location>> {
    let headers = proto.from_headers.iter().map(|h| {
        let name = header(&h.name).under("from_headers")?;
        Ok(Location::Header(name, h.value_prefix.as_str().into()))
    });
    let params = proto.from_params.iter().map(|name| Ok(Location::Param(name.as_str().into())));
    let cookies = proto.from_cookies.iter().map(|name| Ok(Location::Cookie(name.as_str().into())));
    let all: Vec<Location> = headers.chain(params).chain(cookies).collect::<Result<_>>()?;
    Ok(if all.is_empty() { Location::defaults() } else { all })
}

fn header(name: &str) -> Result<HeaderName> {
    HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes())
        .map_err(|_| Refusal::new("header", format!("\"{name}\" is no header name")))
}
