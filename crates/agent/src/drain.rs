//! How a sidecar ends: what Istio's knobs say, and when the moment has come.

use std::net::IpAddr;
use std::time::Duration;

use proxy::{Proxy, Scope};
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

/// Istio's terminationDrainDuration.
const TERMINATION: Duration = Duration::from_secs(5);
/// Istio's MINIMUM_DRAIN_DURATION.
const MINIMUM: Duration = Duration::from_secs(5);
/// Istio's drainDuration.
const DRAIN: Duration = Duration::from_secs(45);
/// Without a new connection for this long, nobody seems to have the address any more.
const QUIET: Duration = Duration::from_secs(1);
/// Between two looks at whether istiod and the clients have let go.
const LOOK: Duration = Duration::from_millis(50);
/// For last bytes to leave, once everything else is over.
const LAST: Duration = Duration::from_millis(50);

/// How a sidecar ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainOptions {
    /// From SIGTERM to the end, when connections do not end before (`terminationDrainDuration`).
    pub termination: Duration,
    /// From `/drain_listeners?graceful` to the closing of listeners (`drainDuration`).
    pub drain: Duration,
    /// Not before this time after SIGTERM, with `exit_on_zero` (`MINIMUM_DRAIN_DURATION`).
    pub minimum: Duration,
    /// End as soon, and only when, no connection is open (`EXIT_ON_ZERO_ACTIVE_CONNECTIONS`).
    pub exit_on_zero: bool,
}

impl Default for DrainOptions {
    fn default() -> Self {
        Self { termination: TERMINATION, drain: DRAIN, minimum: MINIMUM, exit_on_zero: false }
    }
}

impl DrainOptions {
    /// From the proxy configuration and the environment; a variable goes before `proxyMetadata`.
    ///
    /// # Errors
    /// The name of what is malformed, and why.
    pub fn read(config: &Value, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, (&'static str, String)> {
        let field = |name: &'static str, default| match config.get(name).and_then(Value::as_str) {
            Some(text) => parse_duration(text).ok_or_else(|| (name, odd(text))),
            None => Ok(default),
        };
        let metadata = |name: &str| config.pointer(&format!("/proxyMetadata/{name}")).and_then(Value::as_str);
        let setting = |name: &str| variable(name).or_else(|| metadata(name).map(str::to_owned));
        let minimum = match setting("MINIMUM_DRAIN_DURATION") {
            Some(text) => parse_duration(&text).ok_or_else(|| ("MINIMUM_DRAIN_DURATION", odd(&text)))?,
            None => MINIMUM,
        };
        let exit_on_zero = match setting("EXIT_ON_ZERO_ACTIVE_CONNECTIONS") {
            Some(text) => text.parse().map_err(|_| {
                ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", format!("\"{text}\" is neither \"true\" nor \"false\""))
            })?,
            None => false,
        };
        Ok(Self {
            termination: field("terminationDrainDuration", TERMINATION)?,
            drain: field("drainDuration", DRAIN)?,
            minimum,
            exit_on_zero,
        })
    }

    /// From SIGTERM to the last connection. `announced`: the pod's end was announced to us before (`/drain`, as a native
    /// sidecar's preStop hook does), so that SIGTERM means that the application has ended.
    pub(crate) async fn run(&self, proxy: &Proxy, own: IpAddr, announced: bool) {
        proxy.drain(Scope::Inbound);
        let started = Instant::now();
        let end = started + self.termination;
        if announced {
            // Nobody is left who could answer a new connection: turned away at once, its client dials another pod.
            proxy.close(Scope::All);
            proxy.end();
            if self.exit_on_zero {
                proxy.emptied().await;
            } else {
                let _ = timeout_at(end, proxy.emptied()).await;
            }
        } else {
            let _ = timeout_at(end, has_left(proxy, own)).await;
            proxy.close(Scope::Inbound);
            if self.exit_on_zero {
                tokio::time::sleep_until(started + self.minimum).await;
                proxy.emptied().await;
            } else {
                // The application may be at work still, and need its way out.
                tokio::time::sleep_until(end).await;
            }
        }
        proxy.close(Scope::All);
        proxy.end();
        let _ = timeout(LAST, proxy.emptied()).await;
    }
}

/// Waits until istiod does not name us as an endpoint any more, and no client has come for a while.
async fn has_left(proxy: &Proxy, own: IpAddr) {
    let mut last = (proxy.accepted_connections(), Instant::now());
    loop {
        tokio::time::sleep(LOOK).await;
        let accepted = proxy.accepted_connections();
        if accepted != last.0 {
            last = (accepted, Instant::now());
        }
        if last.1.elapsed() >= QUIET && !proxy.is_endpoint(own) {
            return;
        }
    }
}

fn odd(text: &str) -> String {
    format!("\"{text}\" is not a duration; write for example 5s or 1m30s")
}

/// A duration as Go writes it: `5s`, `1m30s`, `1.5h`, `250ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, after) = tail.split_at(letters);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        sum = sum.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_environment_goes_before_the_proxy_configuration() {
        let config = json!({
            "terminationDrainDuration": "1m30s", "drainDuration": "2s",
            "proxyMetadata": {"EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true", "MINIMUM_DRAIN_DURATION": "3s"},
        });
        let none = |_: &str| None;
        let read = DrainOptions::read(&config, &none).expect("it is well formed");
        let seconds = Duration::from_secs;
        let wanted =
            DrainOptions { termination: seconds(90), drain: seconds(2), minimum: seconds(3), exit_on_zero: true };
        assert_eq!(read, wanted);
        let variable = |name: &str| (name == "EXIT_ON_ZERO_ACTIVE_CONNECTIONS").then(|| "false".to_owned());
        assert!(!DrainOptions::read(&config, &variable).expect("it is well formed").exit_on_zero);
        assert_eq!(DrainOptions::read(&Value::Null, &none), Ok(DrainOptions::default()));
    }

    /// A proxy that listens, and has no route for what comes.
    fn listening() -> (std::sync::Arc<Proxy>, std::net::SocketAddr) {
        let proxy = Proxy::start(proxy::ProxyOptions {
            workers: 1,
            node_id: "test".to_owned(),
            telemetry: telemetry::Telemetry::new(telemetry::Workload::unknown()),
            secrets: std::sync::Arc::default(),
            undecided: Duration::ZERO,
        });
        let proxy = proxy.expect("threads");
        let kinds = "type.googleapis.com/envoy.extensions.filters.network";
        let manager = json!({
            "@type": format!("{kinds}.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "in",
            "route_config": {"name": "none"},
            "http_filters": [{"name": "r", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
            }}]
        });
        let listener = json!({
            "name": "in",
            "traffic_direction": "INBOUND",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}]}]
        });
        let listener: envoy_api::envoy::config::listener::v3::Listener =
            envoy_api::message_from_json(listener).expect("a listener");
        let all = [("in".to_owned(), envoy_api::pack(&listener))];
        proxy.apply("envoy.config.listener.v3.Listener", &all, &[]).expect("it compiles");
        let address = proxy.bound_address("in").expect("a bound listener");
        (proxy, address)
    }

    /// Nobody: no endpoint has this address.
    const NOBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    async fn open(proxy: &Proxy, address: std::net::SocketAddr) -> tokio::net::TcpStream {
        let client = tokio::net::TcpStream::connect(address).await.expect("it listens");
        while proxy.open_connections() == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        client
    }

    /// EXIT_ON_ZERO_ACTIVE_CONNECTIONS: the end waits for the last connection, however long it lasts, and for no more.
    #[tokio::test]
    async fn the_last_connection_ends_it_where_that_was_asked_for() {
        let (proxy, address) = listening();
        let client = open(&proxy, address).await;
        let short = Duration::from_millis(1);
        let options =
            DrainOptions { termination: short, minimum: short, exit_on_zero: true, ..DrainOptions::default() };
        let ending = tokio::spawn({
            let proxy = proxy.clone();
            async move { options.run(&proxy, NOBODY, false).await }
        });
        // The listeners close first: then the time of termination is over for certain.
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(!ending.is_finished(), "a connection is open");
        drop(client);
        ending.await.expect("it ends with the last connection");
    }

    /// SIGTERM without an announcement: who comes is served until nobody comes any more, then the listeners close, and
    /// the end does not wait for connections beyond the time of termination.
    #[tokio::test]
    async fn plain_sigterm_serves_while_somebody_comes_and_then_ends() {
        let (proxy, address) = listening();
        let _client = open(&proxy, address).await;
        let options = DrainOptions { termination: Duration::from_secs(3), ..DrainOptions::default() };
        let ending = tokio::spawn({
            let proxy = proxy.clone();
            async move { options.run(&proxy, NOBODY, false).await }
        });
        tokio::task::yield_now().await;
        assert!(tokio::net::TcpStream::connect(address).await.is_ok(), "taken while draining");
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(QUIET / 2).await;
            if ending.is_finished() {
                break;
            }
        }
        ending.await.expect("it ends although a connection is open");
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody is taken any more");
    }

    #[test]
    fn what_is_no_duration_is_named() {
        for odd in ["5", "s", "5 s", "1d", "-1s", "1.2.3s"] {
            assert_eq!(parse_duration(odd), None, "{odd}");
        }
        let config = json!({"terminationDrainDuration": "soon"});
        assert_eq!(DrainOptions::read(&config, &|_| None).map_err(|e| e.0), Err("terminationDrainDuration"));
    }
}
