//! A route table: virtual hosts by domain, routes in order.

use std::collections::HashMap;
use std::sync::Arc;

use crate::RequestView;
use crate::headers::HeaderMutation;
use crate::route::Route;

/// Routes for some domains.
#[derive(Clone, Debug)]
pub struct VirtualHost<C> {
    /// Its name, for logs and metrics.
    pub name: Arc<str>,
    /// Domains: exact, `*.suffix`, `prefix.*`, `*`.
    pub domains: Vec<String>,
    /// Routes in order; the first that matches is taken.
    pub routes: Vec<Route<C>>,
    /// Changes to every request.
    pub request_headers: HeaderMutation,
    /// Changes to every response.
    pub response_headers: HeaderMutation,
    /// Send `x-envoy-attempt-count` upstream.
    pub attempt_count: bool,
}

/// A whole route configuration, indexed.
#[derive(Clone, Debug)]
pub struct RouteTable<C> {
    /// Its name.
    pub name: Arc<str>,
    hosts: Vec<VirtualHost<C>>,
    exact: HashMap<String, usize>,
    /// `*.example` as `.example`, longest first.
    suffixes: Vec<(String, usize)>,
    /// `example.*` as `example.`, longest first.
    prefixes: Vec<(String, usize)>,
    any: Option<usize>,
    /// A port in the authority is looked past.
    ignore_port: bool,
}

impl<C> RouteTable<C> {
    /// Indexes virtual hosts.
    ///
    /// # Errors
    /// A domain that two of them claim (Envoy refuses that too).
    pub fn new(name: Arc<str>, hosts: Vec<VirtualHost<C>>, ignore_port: bool) -> Result<Self, String> {
        let mut table = Self {
            name,
            hosts: Vec::new(),
            exact: HashMap::new(),
            suffixes: Vec::new(),
            prefixes: Vec::new(),
            any: None,
            ignore_port,
        };
        for (index, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                table.claim(&domain.to_ascii_lowercase(), index)?;
            }
        }
        table.suffixes.sort_by_key(|(s, _)| std::cmp::Reverse(s.len()));
        table.prefixes.sort_by_key(|(s, _)| std::cmp::Reverse(s.len()));
        table.hosts = hosts;
        Ok(table)
    }

    fn claim(&mut self, domain: &str, index: usize) -> Result<(), String> {
        let taken = if domain == "*" {
            self.any.replace(index).is_some()
        } else if let Some(suffix) = domain.strip_prefix('*') {
            let again = self.suffixes.iter().any(|(s, _)| s == suffix);
            self.suffixes.push((suffix.to_owned(), index));
            again
        } else if let Some(prefix) = domain.strip_suffix('*') {
            let again = self.prefixes.iter().any(|(s, _)| s == prefix);
            self.prefixes.push((prefix.to_owned(), index));
            again
        } else {
            self.exact.insert(domain.to_owned(), index).is_some()
        };
        if taken { Err(format!("domain \"{domain}\" belongs to two virtual hosts")) } else { Ok(()) }
    }

    /// All virtual hosts.
    pub fn hosts(&self) -> &[VirtualHost<C>] {
        &self.hosts
    }

    /// The virtual host of an authority: exact, then the longest suffix, the longest prefix, `*`.
    pub fn host(&self, authority: &str) -> Option<&VirtualHost<C>> {
        let authority = if self.ignore_port { without_port(authority) } else { authority };
        let lower;
        let authority = if authority.bytes().any(|b| b.is_ascii_uppercase()) {
            lower = authority.to_ascii_lowercase();
            lower.as_str()
        } else {
            authority
        };
        let index = self
            .exact
            .get(authority)
            .or_else(|| find(&self.suffixes, |s| authority.len() > s.len() && authority.ends_with(s)))
            .or_else(|| find(&self.prefixes, |p| authority.len() > p.len() && authority.starts_with(p)))
            .or(self.any.as_ref())?;
        self.hosts.get(*index)
    }

    /// The virtual host and route a request takes.
    pub fn select(&self, request: &RequestView<'_>) -> Option<(&VirtualHost<C>, &Route<C>)> {
        let host = self.host(request.authority)?;
        host.routes.iter().find(|route| route.matches.is_match(request)).map(|route| (host, route))
    }
}

fn find(list: &[(String, usize)], matches: impl Fn(&str) -> bool) -> Option<&usize> {
    list.iter().find(|(pattern, _)| matches(pattern)).map(|(_, index)| index)
}

/// An authority without its port; brackets of IPv6 addresses are respected.
pub fn without_port(authority: &str) -> &str {
    let Some((host, port)) = authority.rsplit_once(':') else { return authority };
    let is_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let bare_v6 = host.contains(':') && !host.ends_with(']');
    if is_port && !bare_v6 { host } else { authority }
}

#[cfg(test)]
mod tests;
