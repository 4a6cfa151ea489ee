//! Where in a request a token stands.

use http::HeaderName;

use crate::requirement::Parts;

/// A place for tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A header whose value begins with a text, such as `Bearer `.
    Header(HeaderName, Box<str>),
    /// A parameter of the query.
    Param(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

impl Location {
    /// Envoy's places when configuration names none.
    pub fn defaults() -> Vec<Self> {
        vec![Self::Header(http::header::AUTHORIZATION, "Bearer ".into()), Self::Param("access_token".into())]
    }

    /// The token that stands here.
    pub(crate) fn find<'a>(&self, parts: &Parts<'a>) -> Option<&'a str> {
        match self {
            Self::Header(name, prefix) => {
                let mut values = parts.headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
                values.find_map(|value| strip(value, prefix)).map(str::trim).filter(|t| !t.is_empty())
            }
            Self::Param(name) => {
                pairs(parts.path).find(|(n, _)| *n == &**name).map(|(_, v)| v).filter(|v| !v.is_empty())
            }
            Self::Cookie(name) => {
                let values = parts.headers.get_all(http::header::COOKIE).iter().filter_map(|v| v.to_str().ok());
                let mut cookies = values.flat_map(|v| v.split(';')).filter_map(|pair| pair.trim().split_once('='));
                cookies.find(|(n, _)| *n == &**name).map(|(_, v)| v.trim_matches('"')).filter(|v| !v.is_empty())
            }
        }
    }

    /// The path without the token, when it stood there.
    pub(crate) fn without(&self, path: &str) -> Option<String> {
        let Self::Param(name) = self else { return None };
        let (head, _) = path.split_once('?')?;
        let rest: Vec<&str> =
            path.get(head.len() + 1..)?.split('&').filter(|p| p.split('=').next() != Some(&**name)).collect();
        Some(if rest.is_empty() { head.to_owned() } else { format!("{head}?{}", rest.join("&")) })
    }
}

/// The scheme of `Authorization` is written in any case (RFC 9110, 11.1).
fn strip<'a>(value: &'a str, prefix: &str) -> Option<&'a str> {
    let head = value.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| value.get(prefix.len()..)).flatten()
}

fn pairs(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = path.split_once('?').map_or("", |(_, query)| query.split('#').next().unwrap_or_default());
    query.split('&').filter_map(|pair| pair.split_once('='))
}
