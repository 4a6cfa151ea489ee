//! A route table: virtual hosts by domain, routes in order.

use std::collections::HashMap;
use std::fmt::{Debug, Formatter};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
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

impl<C> VirtualHost<C> {
    /// The first route that takes a request.
    pub fn route(&self, request: &RequestView<'_>) -> Option<&Route<C>> {
        self.routes.iter().find(|route| route.matches.is_match(request))
    }
}

/// The virtual hosts of a route configuration, by domain. Generic over `H`, what stands for one of them.
#[derive(Clone)]
pub struct RouteTable<H> {
    /// Its name.
    pub name: Arc<str>,
    hosts: Vec<H>,
    /// By hash: a mesh has tens of thousands of domains. The key is the table's own and random, so that nobody can look
    /// for a name that is taken for another; by chance that is one of 2^64.
    exact: HashMap<u64, u32, BuildHasherDefault<Same>>,
    hasher: RandomState,
    /// `*.example` as `.example`, longest first.
    suffixes: Vec<(String, u32)>,
    /// `example.*` as `example.`, longest first.
    prefixes: Vec<(String, u32)>,
    any: Option<u32>,
    /// A port in the authority is looked past.
    ignore_port: bool,
}

/// Without the index, which is made of the hosts' domains and random.
impl<H: Debug> Debug for RouteTable<H> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { name, hosts, ignore_port, .. } = self;
        f.debug_struct("RouteTable")
            .field("name", name)
            .field("hosts", hosts)
            .field("ignore_port", ignore_port)
            .finish()
    }
}

/// Hashes what is a hash.
#[derive(Clone, Debug, Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl<H> RouteTable<H> {
    /// Indexes virtual hosts by their domains.
    ///
    /// # Errors
    /// A domain that two of them claim (Envoy refuses that too).
    pub fn new<'a, D>(
        name: Arc<str>,
        hosts: impl IntoIterator<Item = (D, H)>,
        ignore_port: bool,
    ) -> Result<Self, String>
    where
        D: IntoIterator<Item = &'a String>,
    {
        let mut table = Self {
            name,
            hosts: Vec::new(),
            exact: HashMap::default(),
            hasher: RandomState::new(),
            suffixes: Vec::new(),
            prefixes: Vec::new(),
            any: None,
            ignore_port,
        };
        for (domains, host) in hosts {
            let index = u32::try_from(table.hosts.len()).map_err(|_| "too many virtual hosts".to_owned())?;
            for domain in domains {
                table.claim(&domain.to_ascii_lowercase(), index)?;
            }
            table.hosts.push(host);
        }
        table.suffixes.sort_by_key(|(s, _)| std::cmp::Reverse(s.len()));
        table.prefixes.sort_by_key(|(s, _)| std::cmp::Reverse(s.len()));
        table.hosts.shrink_to_fit();
        table.exact.shrink_to_fit();
        Ok(table)
    }

    fn claim(&mut self, domain: &str, index: u32) -> Result<(), String> {
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
            self.exact.insert(self.hasher.hash_one(domain), index).is_some()
        };
        if taken { Err(format!("domain \"{domain}\" belongs to two virtual hosts")) } else { Ok(()) }
    }

    /// All virtual hosts.
    pub fn hosts(&self) -> &[H] {
        &self.hosts
    }

    /// The virtual host of an authority: exact, then the longest suffix, the longest prefix, `*`.
    pub fn host(&self, authority: &str) -> Option<&H> {
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
            .get(&self.hasher.hash_one(authority))
            .or_else(|| find(&self.suffixes, |s| authority.len() > s.len() && authority.ends_with(s)))
            .or_else(|| find(&self.prefixes, |p| authority.len() > p.len() && authority.starts_with(p)))
            .or(self.any.as_ref())?;
        self.hosts.get(usize::try_from(*index).ok()?)
    }
}

fn find(list: &[(String, u32)], matches: impl Fn(&str) -> bool) -> Option<&u32> {
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
