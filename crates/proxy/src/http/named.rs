//! Clusters whose callers bring the name: the host of a request says where it goes (Envoy's dynamic forward proxy).

use http::{HeaderMap, StatusCode, header};
use proxy_config::HttpManager;
use telemetry::ResponseFlags;
use upstream::{Cluster, NameError, Registry, Target};

use super::reply::Local;

/// The port of a host that names none.
const PORT: u16 = 80;

/// Where the request goes, its addresses found; none where the cluster knows its hosts, or where no filter looks for
/// names (then there is no host, as with Envoy).
pub(crate) async fn target(
    manager: &HttpManager,
    cluster: &Cluster,
    headers: &HeaderMap,
) -> Result<Option<Target>, Local> {
    let Some(limits) = manager.names.filter(|_| cluster.is_named()) else { return Ok(None) };
    let authority = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let failed = |flags, details, body| Local::new(StatusCode::SERVICE_UNAVAILABLE, flags, details, body);
    let unknown = || failed(ResponseFlags::DF, "dns_resolution_failure", "DNS resolution failure");
    let target = authority.and_then(|a| Target::of_authority(a, PORT)).ok_or_else(unknown)?;
    match Box::pin(Registry::resolve(cluster, &target, limits)).await {
        Ok(()) => Ok(Some(target)),
        Err(NameError::NoAddress) => Err(unknown()),
        Err(NameError::Overflow) => Err(failed(ResponseFlags::UO, "dns_cache_overflow", "DNS cache overflow")),
    }
}
