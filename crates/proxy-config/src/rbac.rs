//! RBAC policies.

use envoy_api::envoy::config::rbac::v3 as proto;
use envoy_api::envoy::r#type::matcher::v3 as matcher;
use envoy_api::envoy::r#type::matcher::v3::filter_state_matcher::Matcher as StateMatcher;
use rules::claims::{ClaimMatch, ValueMatch};
use rules::rbac::{Effect, Engine, Permission, Policy, Principal};

use crate::common::{cidr, header_match, path_match, string_match};
use crate::context::{Refusal, Result, Under};
use crate::protocol::refuse_set;

/// Policies within policies are followed this deep.
const MAX_DEPTH: u32 = 32;

pub(crate) fn engine(rules: &proto::Rbac) -> Result<Engine> {
    let effect = match rules.action() {
        proto::rbac::Action::Allow => Effect::Allow,
        proto::rbac::Action::Deny => Effect::Deny,
        proto::rbac::Action::Log => Effect::Log,
    };
    refuse_set!(rules; audit_logging_options)?;
    let mut policies = rules
        .policies
        .iter()
        .map(|(name, policy)| compile(name, policy).under(format!("policies[{name}]")))
        .collect::<Result<Vec<_>>>()?;
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Engine { effect, policies })
}

fn compile(name: &str, policy: &proto::Policy) -> Result<Policy> {
    refuse_set!(policy; condition, checked_condition, cel_config)?;
    let permissions =
        policy.permissions.iter().map(|p| permission(p, 0)).collect::<Result<_>>().under("permissions")?;
    let principals = policy.principals.iter().map(|p| principal(p, 0)).collect::<Result<_>>().under("principals")?;
    Ok(Policy { name: name.into(), permissions, principals })
}

fn permission(proto: &proto::Permission, depth: u32) -> Result<Permission> {
    use proto::permission::Rule as R;
    if depth > MAX_DEPTH {
        return Err(Refusal::new("rule", "is nested too deeply"));
    }
    let set = |s: &proto::permission::Set| s.rules.iter().map(|r| permission(r, depth + 1)).collect::<Result<Vec<_>>>();
    let port = |p: u32| u16::try_from(p).map_err(|_| Refusal::new("destination_port", format!("{p} is not a port")));
    #[allow(deprecated)] // `metadata` is the old name of `sourced_metadata`.
    Ok(match proto.rule.as_ref() {
        Some(R::Any(_)) => Permission::Any,
        Some(R::AndRules(all)) => Permission::And(set(all)?),
        Some(R::OrRules(any)) => Permission::Or(set(any)?),
        Some(R::NotRule(inner)) => Permission::Not(Box::new(permission(inner, depth + 1)?)),
        Some(R::Header(header)) => Permission::Header(header_match(header).under("header")?),
        Some(R::UrlPath(path)) => Permission::Path(path_match(path).under("url_path")?),
        Some(R::DestinationIp(range)) => Permission::DestinationIp(cidr(range).under("destination_ip")?),
        Some(R::DestinationPort(p)) => Permission::DestinationPorts(port(*p)?, p + 1),
        Some(R::DestinationPortRange(range)) => {
            let start = u32::try_from(range.start).unwrap_or(0);
            Permission::DestinationPorts(port(start)?, u32::try_from(range.end).unwrap_or(0))
        }
        Some(R::RequestedServerName(name)) => Permission::Sni(string_match(name).under("requested_server_name")?),
        Some(R::Metadata(metadata)) => Permission::Claim(claim(metadata).under("metadata")?),
        Some(R::SourcedMetadata(sourced)) => Permission::Claim(self::sourced(sourced).under("sourced_metadata")?),
        Some(R::Matcher(_)) => return Err(Refusal::unsupported("matcher")),
        Some(R::UriTemplate(_)) => return Err(Refusal::unsupported("uri_template")),
        None => return Err(Refusal::new("rule", "is missing")),
    })
}

fn principal(proto: &proto::Principal, depth: u32) -> Result<Principal> {
    use proto::principal::Identifier as I;
    if depth > MAX_DEPTH {
        return Err(Refusal::new("identifier", "is nested too deeply"));
    }
    let set = |s: &proto::principal::Set| s.ids.iter().map(|p| principal(p, depth + 1)).collect::<Result<Vec<_>>>();
    #[allow(deprecated)] // `source_ip` is the old name of `remote_ip`.
    Ok(match proto.identifier.as_ref() {
        Some(I::Any(_)) => Principal::Any,
        Some(I::AndIds(all)) => Principal::And(set(all)?),
        Some(I::OrIds(any)) => Principal::Or(set(any)?),
        Some(I::NotId(inner)) => Principal::Not(Box::new(principal(inner, depth + 1)?)),
        Some(I::Authenticated(who)) => {
            let name = who.principal_name.as_ref().map(string_match).transpose().under("principal_name")?;
            Principal::Authenticated(name)
        }
        Some(I::DirectRemoteIp(range)) => Principal::DirectIp(cidr(range).under("direct_remote_ip")?),
        Some(I::SourceIp(range) | I::RemoteIp(range)) => Principal::RemoteIp(cidr(range).under("remote_ip")?),
        Some(I::Header(header)) => Principal::Header(header_match(header).under("header")?),
        Some(I::UrlPath(path)) => Principal::Path(path_match(path).under("url_path")?),
        Some(I::FilterState(state)) if state.key == "io.istio.peer_principal" => match state.matcher.as_ref() {
            Some(StateMatcher::StringMatch(m)) => {
                Principal::Authenticated(Some(string_match(m).under("filter_state")?))
            }
            _ => return Err(Refusal::unsupported("filter_state")),
        },
        Some(I::FilterState(_)) => return Err(Refusal::unsupported("filter_state")),
        Some(I::Metadata(metadata)) => Principal::Claim(claim(metadata).under("metadata")?),
        Some(I::SourcedMetadata(sourced)) => Principal::Claim(self::sourced(sourced).under("sourced_metadata")?),
        Some(I::Custom(_)) => return Err(Refusal::unsupported("custom")),
        None => return Err(Refusal::new("identifier", "is missing")),
    })
}

/// The filter whose metadata policies may ask for: it holds the claims of verified tokens.
const TOKENS: &str = "envoy.filters.http.jwt_authn";

fn sourced(proto: &proto::SourcedMetadata) -> Result<ClaimMatch> {
    if proto.metadata_source() != proto::MetadataSource::Dynamic {
        return Err(Refusal::unsupported("metadata_source"));
    }
    claim(proto.metadata_matcher.as_ref().ok_or_else(|| Refusal::new("metadata_matcher", "is missing"))?)
}

fn claim(proto: &matcher::MetadataMatcher) -> Result<ClaimMatch> {
    use matcher::metadata_matcher::path_segment::Segment;
    if proto.filter != TOKENS {
        return Err(Refusal::new("filter", format!("no filter here sets metadata of \"{}\"", proto.filter)));
    }
    let path = proto
        .path
        .iter()
        .map(|part| match &part.segment {
            Some(Segment::Key(key)) => Ok(key.clone()),
            None => Err(Refusal::new("path", "holds an empty segment")),
        })
        .collect::<Result<Vec<_>>>()?;
    let value = proto.value.as_ref().ok_or_else(|| Refusal::new("value", "is missing"))?;
    Ok(ClaimMatch { path, value: claim_value(value, 0).under("value")?, invert: proto.invert })
}

fn claim_value(proto: &matcher::ValueMatcher, depth: u32) -> Result<ValueMatch> {
    use matcher::double_matcher::MatchPattern as D;
    use matcher::list_matcher::MatchPattern as L;
    use matcher::value_matcher::MatchPattern as P;
    if depth > MAX_DEPTH {
        return Err(Refusal::new("value", "is nested too deeply"));
    }
    Ok(match proto.match_pattern.as_ref() {
        Some(P::StringMatch(text)) => ValueMatch::Text(string_match(text).under("string_match")?),
        Some(P::BoolMatch(flag)) => ValueMatch::Bool(*flag),
        Some(P::NullMatch(_)) => ValueMatch::Null,
        Some(P::PresentMatch(true)) => ValueMatch::Present,
        Some(P::PresentMatch(false)) => return Err(Refusal::new("present_match", "must be true; use invert")),
        Some(P::DoubleMatch(number)) => match &number.match_pattern {
            Some(D::Exact(exact)) => ValueMatch::Number(*exact, None),
            Some(D::Range(range)) => ValueMatch::Number(range.start, Some(range.end)),
            None => return Err(Refusal::new("double_match", "is empty")),
        },
        Some(P::ListMatch(list)) => match &list.match_pattern {
            Some(L::OneOf(one)) => ValueMatch::List(Box::new(claim_value(one, depth + 1)?)),
            None => return Err(Refusal::new("list_match", "is empty")),
        },
        Some(P::OrMatch(any)) => ValueMatch::Any(
            any.value_matchers.iter().map(|v| claim_value(v, depth + 1)).collect::<Result<_>>().under("or_match")?,
        ),
        None => return Err(Refusal::new("match_pattern", "is missing")),
    })
}
