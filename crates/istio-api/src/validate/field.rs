//! Checks that many fields share.

use std::collections::BTreeMap;
use std::time::Duration;

use super::FieldError;

/// The mistakes found so far.
pub(super) struct Found<'a>(pub(super) &'a mut Vec<FieldError>);

impl Found<'_> {
    pub(super) fn no(&mut self, at: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError { pointer: at.into(), message: message.into() });
    }

    pub(super) fn when(&mut self, wrong: bool, at: &str, message: &str) {
        if wrong {
            self.no(at, message);
        }
    }

    /// A duration that Envoy can keep: at least a millisecond.
    pub(super) fn duration(&mut self, value: Option<Duration>, at: &str) {
        self.when(value.is_some_and(|v| v < Duration::from_millis(1)), at, "a duration is at least 1ms");
    }

    /// As [`duration`](Self::duration), where zero means "no limit".
    pub(super) fn limit(&mut self, value: Option<Duration>, at: &str) {
        self.duration(value.filter(|v| !v.is_zero()), at);
    }

    pub(super) fn percent(&mut self, value: Option<f64>, at: &str) {
        let wrong = value.is_some_and(|v| !(0.0..=100.0).contains(&v));
        self.when(wrong, at, "a percentage lies between 0 and 100");
    }

    pub(super) fn port(&mut self, value: Option<u32>, at: &str) {
        if let Some(number) = value.filter(|n| !(1..=65535).contains(n)) {
            self.no(at, format!("{number} is not a port"));
        }
    }

    pub(super) fn not_negative(&mut self, value: Option<i32>, at: &str) {
        if let Some(value) = value.filter(|v| *v < 0) {
            self.no(at, format!("{value} is negative"));
        }
    }

    pub(super) fn one_of(&mut self, value: Option<&str>, known: &[&str], at: &str) {
        if let Some(value) = value.filter(|v| !known.contains(v)) {
            self.no(at, format!("unknown value \"{value}\"; use {}", known.join(", ")));
        }
    }

    /// A name of a DNS host, a wildcard in front of one, or an address.
    pub(super) fn host(&mut self, host: &str, at: &str) {
        let rest = host.strip_prefix('*').unwrap_or(host);
        let known = host == "*" || host.parse::<std::net::IpAddr>().is_ok() || is_dns(rest);
        if !known {
            self.no(at, format!("\"{host}\" is not a host name"));
        }
    }

    pub(super) fn labels(&mut self, labels: &BTreeMap<String, String>, at: &str) {
        for (key, value) in labels {
            if key.is_empty() || !value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
                self.no(format!("{at}/{key}"), format!("\"{key}: {value}\" is not a label"));
            }
        }
    }

    pub(super) fn network(&mut self, text: &str, at: String) {
        let (ip, prefix) = text.split_once('/').unwrap_or((text, ""));
        let most = match ip.parse() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => {
                self.no(at, format!("\"{text}\" is not a network, such as 10.0.0.0/8"));
                return;
            }
        };
        if !prefix.is_empty() && prefix.parse::<u32>().map_or(true, |length| length > most) {
            self.no(at, format!("\"{text}\" is not a network, such as 10.0.0.0/8"));
        }
    }

    /// `exportTo`: namespaces, `.`, `*` or `~`, each once, and nothing beside `*` or `~`.
    pub(super) fn export_to(&mut self, list: &[String]) {
        for (index, name) in list.iter().enumerate() {
            let at = format!("/spec/exportTo/{index}");
            if list.iter().take(index).any(|other| other == name) {
                self.no(at, format!("\"{name}\" is there twice"));
            } else if matches!(name.as_str(), "*" | "~") && list.len() > 1 {
                self.no(at, format!("\"{name}\" stands alone or not at all"));
            } else if !matches!(name.as_str(), "*" | "~" | ".") && !is_label(name) {
                self.no(at, format!("\"{name}\" is not a namespace"));
            }
        }
    }

    pub(super) fn expression(&mut self, expression: &str, at: &str) {
        if let Err(error) = regex::Regex::new(expression) {
            let why = error.to_string();
            self.no(at, format!("not a regular expression: {}", why.lines().last().unwrap_or_default()));
        }
    }

    pub(super) fn header_name(&mut self, name: &str, at: &str) {
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let bare = name.strip_prefix(':').unwrap_or(name);
        if bare.is_empty() || !bare.chars().all(token) {
            self.no(at, format!("\"{name}\" is not a header name"));
        }
    }
}

/// A DNS label.
pub(super) fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_dns(name: &str) -> bool {
    let label = |part: &str| is_label(&part.replace('_', "a"));
    name.len() <= 255 && name.strip_suffix('.').unwrap_or(name).trim_start_matches('.').split('.').all(label)
}
