//! Small messages that many resources share: strings, headers, addresses, durations, fractions.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ::http::{HeaderName, HeaderValue};
use envoy_api::envoy::config::core::v3 as core;
use envoy_api::envoy::config::route::v3::{HeaderMatcher, header_matcher};
use envoy_api::envoy::r#type::matcher::v3 as matcher;
use envoy_api::envoy::r#type::v3 as types;
use ipnet::IpNet;
use rules::headers::{Append, HeaderMutation, SetHeader, Text};
use rules::matching::{HeaderKey, HeaderMatch, HeaderValueMatch, StringMatch};
use telemetry::Template;

use crate::context::{Refusal, Result, Under};
use crate::protocol::{IsSet, refuse_set};

pub(crate) fn duration(proto: Option<&envoy_api::Duration>) -> Option<Duration> {
    let proto = proto?;
    let seconds = u64::try_from(proto.seconds).unwrap_or(0);
    Some(Duration::new(seconds, u32::try_from(proto.nanos).unwrap_or(0).min(999_999_999)))
}

/// A duration where zero means "no limit".
pub(crate) fn limit(proto: Option<&envoy_api::Duration>) -> Option<Duration> {
    duration(proto).filter(|d| !d.is_zero())
}

/// The same, where a field that is not set has a default.
pub(crate) fn limit_or(proto: Option<&envoy_api::Duration>, default: Option<Duration>) -> Option<Duration> {
    if proto.is_none() { default } else { limit(proto) }
}

/// Where a host or a listener is: a socket address, or the path of a Unix socket.
pub(crate) fn host_address(proto: Option<&core::Address>) -> Result<upstream::Address> {
    let Some(core::address::Address::Pipe(pipe)) = proto.and_then(|a| a.address.as_ref()) else {
        return socket_address(proto).map(upstream::Address::Ip);
    };
    /// What the kernel has room for, with the zero at the end.
    const LONGEST: usize = 107;
    refuse_set!(pipe; mode).under("pipe")?;
    if pipe.path.is_empty() || pipe.path.len() > LONGEST || pipe.path.contains('\0') {
        return Err(Refusal::new("pipe.path", format!("\"{}\" is no path of a socket", pipe.path)));
    }
    Ok(upstream::Address::Pipe(pipe.path.as_str().into()))
}

pub(crate) fn socket_address(proto: Option<&core::Address>) -> Result<SocketAddr> {
    let Some(core::address::Address::SocketAddress(socket)) = proto.and_then(|a| a.address.as_ref()) else {
        return Err(Refusal::new("address", "only a socket_address can be used here"));
    };
    plain_socket(socket)?;
    let ip: IpAddr = socket
        .address
        .parse()
        .map_err(|_| Refusal::new("socket_address.address", format!("\"{}\" is not an IP address", socket.address)))?;
    Ok(SocketAddr::new(ip, port(socket)?))
}

/// Refuses what an address may ask for beside address and port.
pub(crate) fn plain_socket(socket: &core::SocketAddress) -> Result<()> {
    refuse_set!(socket; protocol, resolver_name, ipv4_compat, network_namespace_filepath)
}

pub(crate) fn port(socket: &core::SocketAddress) -> Result<u16> {
    match socket.port_specifier {
        Some(core::socket_address::PortSpecifier::PortValue(port)) => {
            u16::try_from(port).map_err(|_| Refusal::new("port_value", format!("{port} is not a port")))
        }
        _ => Err(Refusal::new("port_value", "is missing; named ports are not resolved here")),
    }
}

pub(crate) fn cidr(proto: &core::CidrRange) -> Result<IpNet> {
    let ip: IpAddr = proto
        .address_prefix
        .parse()
        .map_err(|_| Refusal::new("address_prefix", format!("\"{}\" is not an IP address", proto.address_prefix)))?;
    let length = proto.prefix_len.map_or(0, |l| l.value);
    let length = u8::try_from(length).map_err(|_| Refusal::new("prefix_len", "is too large"))?;
    Ok(IpNet::new(ip, length).map_err(|e| Refusal::new("prefix_len", e))?.trunc())
}

pub(crate) fn string_match(proto: &matcher::StringMatcher) -> Result<StringMatch> {
    use matcher::string_matcher::MatchPattern as P;
    let fold = |s: &str| -> Box<str> { if proto.ignore_case { s.to_ascii_lowercase().into() } else { s.into() } };
    let pattern = match proto.match_pattern.as_ref() {
        Some(P::Exact(s)) => StringMatch::Exact(fold(s)),
        Some(P::Prefix(s)) if s.is_empty() => StringMatch::Present,
        Some(P::Prefix(s)) => StringMatch::Prefix(fold(s)),
        Some(P::Suffix(s)) => StringMatch::Suffix(fold(s)),
        Some(P::Contains(s)) => StringMatch::Contains(fold(s)),
        Some(P::SafeRegex(r)) => {
            return StringMatch::regex(&r.regex).map_err(|e| Refusal::new("safe_regex", e));
        }
        Some(P::Custom(_)) => return Err(Refusal::unsupported("custom")),
        None => return Err(Refusal::new("match_pattern", "is missing")),
    };
    Ok(if proto.ignore_case { StringMatch::IgnoreCase(Box::new(pattern)) } else { pattern })
}

pub(crate) fn path_match(proto: &matcher::PathMatcher) -> Result<StringMatch> {
    match &proto.rule {
        Some(matcher::path_matcher::Rule::Path(path)) => string_match(path).under("path"),
        None => Err(Refusal::new("path", "is missing")),
    }
}

pub(crate) fn header_match(proto: &HeaderMatcher) -> Result<HeaderMatch> {
    use header_matcher::HeaderMatchSpecifier as S;
    let text = |m: StringMatch| HeaderValueMatch::Text(m);
    #[allow(deprecated)] // Old control planes still send the short forms.
    let value = match proto.header_match_specifier.as_ref() {
        None => HeaderValueMatch::Present(true),
        Some(S::PresentMatch(wanted)) => HeaderValueMatch::Present(*wanted),
        Some(S::StringMatch(m)) => text(string_match(m).under("string_match")?),
        Some(S::ExactMatch(s)) => text(StringMatch::Exact(s.as_str().into())),
        Some(S::PrefixMatch(s)) => text(StringMatch::Prefix(s.as_str().into())),
        Some(S::SuffixMatch(s)) => text(StringMatch::Suffix(s.as_str().into())),
        Some(S::ContainsMatch(s)) => text(StringMatch::Contains(s.as_str().into())),
        Some(S::SafeRegexMatch(r)) => {
            text(StringMatch::regex(&r.regex).map_err(|e| Refusal::new("safe_regex_match", e))?)
        }
        Some(S::RangeMatch(r)) => HeaderValueMatch::Range(r.start, r.end),
    };
    Ok(HeaderMatch {
        key: HeaderKey::new(&proto.name).map_err(|e| Refusal::new("name", e))?,
        value,
        invert: proto.invert_match,
        missing_is_empty: proto.treat_missing_header_as_empty,
    })
}

/// How many of a million a fraction means.
pub(crate) fn per_million(proto: Option<&types::FractionalPercent>) -> u32 {
    let Some(proto) = proto else { return 0 };
    let scale = match proto.denominator() {
        types::fractional_percent::DenominatorType::Hundred => 10_000,
        types::fractional_percent::DenominatorType::TenThousand => 100,
        types::fractional_percent::DenominatorType::Million => 1,
    };
    proto.numerator.saturating_mul(scale).min(1_000_000)
}

/// Headers to add and remove. `:authority` and `host` are routes' business and refused here.
pub(crate) fn mutation(add: &[core::HeaderValueOption], remove: &[String]) -> Result<HeaderMutation> {
    let name = |n: &str| {
        HeaderName::from_bytes(n.to_ascii_lowercase().as_bytes())
            .map_err(|_| Refusal::new("header", format!("\"{n}\" cannot be changed")))
    };
    let set = add
        .iter()
        // A header without a value is not set at all, unless that is asked for (as in Envoy).
        .filter(|option| {
            option.keep_empty_value || option.header.as_ref().is_none_or(|h| h.value.is_set() || h.raw_value.is_set())
        })
        .map(|option| {
            let header = option.header.as_ref().ok_or_else(|| Refusal::new("header", "is missing"))?;
            Ok(SetHeader {
                name: name(&header.key)?,
                value: text(&header.value, &header.raw_value, option.keep_empty_value)?,
                append: append(option),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let remove = remove.iter().map(|n| name(n)).collect::<Result<Vec<_>>>()?;
    Ok(HeaderMutation::new(remove, set))
}

fn append(option: &core::HeaderValueOption) -> Append {
    use core::header_value_option::HeaderAppendAction as A;
    #[allow(deprecated)] // Istio sends `append` as a wrapper.
    match option.append {
        Some(flag) if flag.value => return Append::Add,
        Some(_) => return Append::Overwrite,
        None => {}
    }
    match option.append_action() {
        A::AppendIfExistsOrAdd => Append::Add,
        A::AddIfAbsent => Append::IfAbsent,
        A::OverwriteIfExistsOrAdd => Append::Overwrite,
        A::OverwriteIfExists => Append::OverwriteIfPresent,
    }
}

/// A header value, with operators or without; `%%` is a percent sign.
fn text(value: &str, raw: &[u8], keep_empty: bool) -> Result<Text> {
    if !raw.is_empty() {
        return HeaderValue::from_bytes(raw).map(Text::Fixed).map_err(|e| Refusal::new("raw_value", e));
    }
    let template = Template::new(value).map_err(|e| Refusal::new("value", e))?;
    match template.fixed() {
        Some(fixed) => HeaderValue::from_str(&fixed).map(Text::Fixed).map_err(|e| Refusal::new("value", e)),
        None => Ok(Text::Made { template, keep_empty }),
    }
}

/// The text of a data source that is inline or a file.
pub(crate) fn data_source(proto: Option<&core::DataSource>) -> Result<String> {
    use core::data_source::Specifier as S;
    if let Some(source) = proto {
        refuse_set!(source; watched_directory)?;
    }
    match proto.and_then(|d| d.specifier.as_ref()) {
        Some(S::InlineString(text)) => Ok(text.clone()),
        Some(S::InlineBytes(bytes)) => {
            String::from_utf8(bytes.clone()).map_err(|_| Refusal::new("inline_bytes", "is not UTF-8"))
        }
        Some(S::Filename(path)) => {
            std::fs::read_to_string(path).map_err(|e| Refusal::new("filename", format!("{path}: {e}")))
        }
        Some(S::EnvironmentVariable(_)) => Err(Refusal::unsupported("environment_variable")),
        None => Err(Refusal::new("", "holds nothing")),
    }
}

/// Last part of a type URL.
pub(crate) fn kind(any: &envoy_api::Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Reads the message inside an `Any`.
pub(crate) fn unpack<M: envoy_api::prost::Message + Default>(any: &envoy_api::Any) -> Result<M> {
    envoy_api::unpack(any).map_err(|e| Refusal::new("typed_config", e))
}
