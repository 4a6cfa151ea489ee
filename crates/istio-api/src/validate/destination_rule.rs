//! DestinationRules.

use super::FieldError;
use super::field::{Found, is_label};
use crate::networking::{
    ClientTlsSettings, ConnectionPool, ConsistentHash, DestinationRule, LoadBalancerSettings, LocalityFailover,
    LocalityLbSetting, OutlierDetection, TrafficPolicy, TunnelSettings, ZoneAwareLbSetting,
};

/// Envoy's largest Maglev table.
const MAX_TABLE: u64 = 5_000_011;

pub(super) fn destination_rule(spec: &DestinationRule, found: &mut Vec<FieldError>) {
    let found = &mut Found(found);
    if spec.host.is_empty() {
        found.no("/spec/host", "a DestinationRule needs a host");
    } else {
        found.host(&spec.host, "/spec/host");
    }
    found.export_to(&spec.export_to);
    if let Some(selector) = &spec.workload_selector {
        found.labels(&selector.match_labels, "/spec/workloadSelector/matchLabels");
    }
    if let Some(policy) = &spec.traffic_policy {
        traffic_policy(policy, "/spec/trafficPolicy", found);
    }
    for (i, subset) in spec.subsets.iter().enumerate() {
        let at = format!("/spec/subsets/{i}");
        if subset.name.is_empty() {
            found.no(format!("{at}/name"), "a subset needs a name");
        } else if !is_label(&subset.name) {
            found.no(format!("{at}/name"), format!("\"{}\" is not a name: letters, digits and -", subset.name));
        }
        if spec.subsets.iter().take(i).any(|s| s.name == subset.name) {
            found.no(format!("{at}/name"), format!("the subset \"{}\" is there twice", subset.name));
        }
        found.labels(&subset.labels, &format!("{at}/labels"));
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(policy, &format!("{at}/trafficPolicy"), found);
        }
    }
}

fn traffic_policy(policy: &TrafficPolicy, at: &str, found: &mut Found<'_>) {
    if *policy == TrafficPolicy::default() {
        found.no(at, "a trafficPolicy needs at least one field");
    }
    parts(
        policy.load_balancer.as_ref(),
        policy.connection_pool.as_ref(),
        policy.outlier_detection.as_ref(),
        policy.tls.as_ref(),
        at,
        found,
    );
    for (i, port) in policy.port_level_settings.iter().enumerate() {
        let at = format!("{at}/portLevelSettings/{i}");
        found.when(port.port.is_none(), &format!("{at}/port"), "a port is needed");
        found.port(port.port.as_ref().map(|p| p.number), &format!("{at}/port/number"));
        let again =
            policy.port_level_settings.iter().take(i).any(|other| other.port.is_some() && other.port == port.port);
        found.when(again, &format!("{at}/port"), "this port is there twice");
        parts(
            port.load_balancer.as_ref(),
            port.connection_pool.as_ref(),
            port.outlier_detection.as_ref(),
            port.tls.as_ref(),
            &at,
            found,
        );
    }
    policy.tunnel.iter().for_each(|of| tunnel(of, &format!("{at}/tunnel"), found));
    let version = policy.proxy_protocol.as_ref().and_then(|p| p.version.as_deref());
    found.one_of(version, &["V1", "V2"], &format!("{at}/proxyProtocol/version"));
    if let Some(budget) = &policy.retry_budget {
        found.percent(budget.percent, &format!("{at}/retryBudget/percent"));
    }
}

fn parts(
    balancer: Option<&LoadBalancerSettings>,
    pool: Option<&ConnectionPool>,
    outlier: Option<&OutlierDetection>,
    tls: Option<&ClientTlsSettings>,
    at: &str,
    found: &mut Found<'_>,
) {
    balancer.into_iter().for_each(|of| load_balancer(of, &format!("{at}/loadBalancer"), found));
    pool.into_iter().for_each(|of| connection_pool(of, &format!("{at}/connectionPool"), found));
    outlier.into_iter().for_each(|of| outlier_detection(of, &format!("{at}/outlierDetection"), found));
    tls.into_iter().for_each(|of| client_tls(of, &format!("{at}/tls"), found));
}

fn tunnel(of: &TunnelSettings, at: &str, found: &mut Found<'_>) {
    let protocol = Some(of.protocol.as_str()).filter(|p| !p.is_empty());
    found.one_of(protocol, &["CONNECT", "POST"], &format!("{at}/protocol"));
    if of.target_host.is_empty() || of.target_host.contains('*') {
        found.no(format!("{at}/targetHost"), "a tunnel needs the host where it ends, without wildcard");
    } else {
        found.host(&of.target_host, &format!("{at}/targetHost"));
    }
    found.port(Some(of.target_port), &format!("{at}/targetPort"));
}

fn load_balancer(of: &LoadBalancerSettings, at: &str, found: &mut Found<'_>) {
    let known = ["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"];
    found.one_of(of.simple.as_deref(), &known, &format!("{at}/simple"));
    let both = of.simple.is_some() && of.consistent_hash.is_some();
    found.when(both, &format!("{at}/consistentHash"), "a loadBalancer has simple or consistentHash, not both");
    of.consistent_hash.iter().for_each(|of| hash(of, &format!("{at}/consistentHash"), found));
    let both = of.locality_lb_setting.is_some() && of.zone_aware_lb_setting.is_some();
    let message = "a loadBalancer has localityLbSetting or zoneAwareLbSetting, not both";
    found.when(both, &format!("{at}/zoneAwareLbSetting"), message);
    places(of.locality_lb_setting.as_ref(), of.zone_aware_lb_setting.as_ref(), at, found);
    found.duration(of.warmup_duration_secs, &format!("{at}/warmupDurationSecs"));
    let warm = of.warmup.is_some() || of.warmup_duration_secs.is_some();
    let gradual =
        matches!(of.simple.as_deref(), None | Some("UNSPECIFIED" | "ROUND_ROBIN" | "LEAST_REQUEST" | "LEAST_CONN"));
    let message = "hosts are warmed up under ROUND_ROBIN and LEAST_REQUEST only";
    found.when(warm && (!gradual || of.consistent_hash.is_some()), &format!("{at}/warmup"), message);
    if let Some(warmup) = &of.warmup {
        let at = format!("{at}/warmup");
        found.when(warmup.duration.is_none(), &format!("{at}/duration"), "a duration is needed");
        found.duration(warmup.duration, &format!("{at}/duration"));
        found.percent(warmup.minimum_percent, &format!("{at}/minimumPercent"));
        let low = warmup.aggression.is_some_and(|a| !(1.0..=1000.0).contains(&a));
        found.when(low, &format!("{at}/aggression"), "aggression is at least 1");
    }
}

fn hash(of: &ConsistentHash, at: &str, found: &mut Found<'_>) {
    let ways = [
        of.http_header_name.is_some(),
        of.http_cookie.is_some(),
        of.use_source_ip.is_some(),
        of.http_query_parameter_name.is_some(),
    ];
    let message = "a consistentHash has one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName";
    found.when(ways.iter().filter(|w| **w).count() != 1, at, message);
    if let Some(name) = &of.http_header_name {
        found.header_name(name, &format!("{at}/httpHeaderName"));
    }
    if let Some(cookie) = &of.http_cookie {
        found.when(cookie.name.is_empty(), &format!("{at}/httpCookie/name"), "a cookie needs a name");
    }
    let both = of.ring_hash.is_some() && of.maglev.is_some();
    found.when(both, &format!("{at}/maglev"), "a consistentHash has ringHash or maglev, not both");
    if let Some(size) = of.maglev.as_ref().and_then(|m| m.table_size) {
        let prime = size > 1 && (2..).take_while(|d| d * d <= size).all(|d| !size.is_multiple_of(d));
        let message = "a Maglev table's size is a prime up to 5000011";
        found.when(size > MAX_TABLE || !prime, &format!("{at}/maglev/tableSize"), message);
    }
}

/// What traffic prefers, of a rule or of the whole mesh; that both are given is a mistake in a rule alone.
pub(super) fn places(
    locality: Option<&LocalityLbSetting>,
    zones: Option<&ZoneAwareLbSetting>,
    at: &str,
    found: &mut Found<'_>,
) {
    locality.iter().for_each(|of| self::locality(of, &format!("{at}/localityLbSetting"), found));
    zones.iter().for_each(|of| zone_aware(of, &format!("{at}/zoneAwareLbSetting"), found));
}

fn zone_aware(of: &ZoneAwareLbSetting, at: &str, found: &mut Found<'_>) {
    let of_places = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
    for (i, label) in of.failover_priority.iter().enumerate() {
        let message = "regions and zones are ranked without a label; use failover to order regions";
        found.when(of_places.contains(&label.as_str()), &format!("{at}/failoverPriority/{i}"), message);
    }
    failover(&of.failover, at, found);
}

fn locality(of: &LocalityLbSetting, at: &str, found: &mut Found<'_>) {
    let message = "distribute excludes failover and failoverPriority";
    let fails_over = !of.failover.is_empty() || !of.failover_priority.is_empty();
    let both = fails_over && !of.distribute.is_empty();
    found.when(both, &format!("{at}/distribute"), message);
    for (i, rule) in of.distribute.iter().enumerate() {
        let at = format!("{at}/distribute/{i}");
        found.when(rule.from.is_empty(), &format!("{at}/from"), "a locality is needed, such as region/zone/*");
        let sum: u64 = rule.to.values().map(|w| u64::from(*w)).sum();
        if sum != 100 {
            found.no(format!("{at}/to"), format!("the weights add up to {sum}, not to 100"));
        }
        for to in rule.to.iter().filter(|(_, weight)| **weight == 0) {
            found.no(format!("{at}/to/{}", to.0), "a weight of 0 says nothing; leave the locality out");
        }
    }
    failover(&of.failover, at, found);
}

fn failover(of: &[LocalityFailover], at: &str, found: &mut Found<'_>) {
    for (i, rule) in of.iter().enumerate() {
        let at = format!("{at}/failover/{i}");
        found.when(rule.from == rule.to, &at, "from and to are the same region");
        for (field, region) in [("from", &rule.from), ("to", &rule.to)] {
            let wrong = region.is_empty() || region.contains(['/', '*']);
            found.when(wrong, &format!("{at}/{field}"), "a region is needed, without zone");
        }
    }
}

fn connection_pool(of: &ConnectionPool, at: &str, found: &mut Found<'_>) {
    found.when(of.tcp.is_none() && of.http.is_none(), at, "a connectionPool needs tcp or http");
    if let Some(tcp) = &of.tcp {
        let at = format!("{at}/tcp");
        found.not_negative(tcp.max_connections, &format!("{at}/maxConnections"));
        found.duration(tcp.connect_timeout, &format!("{at}/connectTimeout"));
        found.duration(tcp.max_connection_duration, &format!("{at}/maxConnectionDuration"));
        found.limit(tcp.idle_timeout, &format!("{at}/idleTimeout"));
        if let Some(keepalive) = &tcp.tcp_keepalive {
            found.duration(keepalive.time, &format!("{at}/tcpKeepalive/time"));
            found.duration(keepalive.interval, &format!("{at}/tcpKeepalive/interval"));
        }
    }
    if let Some(http) = &of.http {
        let at = format!("{at}/http");
        for (name, value) in [
            ("http1MaxPendingRequests", http.http1_max_pending_requests),
            ("http2MaxRequests", http.http2_max_requests),
            ("maxRequestsPerConnection", http.max_requests_per_connection),
            ("maxRetries", http.max_retries),
            ("maxConcurrentStreams", http.max_concurrent_streams),
        ] {
            found.not_negative(value, &format!("{at}/{name}"));
        }
        found.limit(http.idle_timeout, &format!("{at}/idleTimeout"));
        let policy = http.h2_upgrade_policy.as_deref();
        found.one_of(policy, &["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"], &format!("{at}/h2UpgradePolicy"));
        let both = http.use_client_protocol && policy == Some("UPGRADE");
        found.when(both, &format!("{at}/useClientProtocol"), "h2UpgradePolicy: UPGRADE excludes useClientProtocol");
        if let Some(alive) = &http.http2_keep_alive {
            found.duration(alive.interval, &format!("{at}/http2KeepAlive/interval"));
            found.duration(alive.timeout, &format!("{at}/http2KeepAlive/timeout"));
        }
    }
}

fn outlier_detection(of: &OutlierDetection, at: &str, found: &mut Found<'_>) {
    found.duration(of.interval, &format!("{at}/interval"));
    found.duration(of.base_ejection_time, &format!("{at}/baseEjectionTime"));
    found.percent(of.max_ejection_percent.map(f64::from), &format!("{at}/maxEjectionPercent"));
    found.percent(of.min_health_percent.map(f64::from), &format!("{at}/minHealthPercent"));
    let alone = of.consecutive_local_origin_failures.is_some_and(|n| n > 0) && !of.split_external_local_origin_errors;
    let message = "local failures are counted apart only with splitExternalLocalOriginErrors: true";
    found.when(alone, &format!("{at}/consecutiveLocalOriginFailures"), message);
}

fn client_tls(of: &ClientTlsSettings, at: &str, found: &mut Found<'_>) {
    found.one_of(of.mode.as_deref(), &["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"], &format!("{at}/mode"));
    let files = [
        ("clientCertificate", &of.client_certificate),
        ("privateKey", &of.private_key),
        ("caCertificates", &of.ca_certificates),
        ("caCrl", &of.ca_crl),
    ];
    let mode = of.mode.as_deref().unwrap_or("DISABLE");
    for (name, path) in files {
        let at = format!("{at}/{name}");
        let given = !path.is_empty();
        found.when(given && !of.credential_name.is_empty(), &at, "credentialName brings this already");
        found.when(given && mode == "ISTIO_MUTUAL", &at, "ISTIO_MUTUAL uses the mesh's own certificates");
    }
    let credential = !of.credential_name.is_empty() && mode == "ISTIO_MUTUAL";
    found.when(credential, &format!("{at}/credentialName"), "ISTIO_MUTUAL uses the mesh's own certificates");
    if mode == "MUTUAL" && of.credential_name.is_empty() {
        for (name, path) in files.into_iter().take(2) {
            found.when(
                path.is_empty(),
                &format!("{at}/{name}"),
                "MUTUAL needs clientCertificate and privateKey, or credentialName",
            );
        }
    }
    if of.insecure_skip_verify == Some(true) {
        let message = "insecureSkipVerify looks at no certificate; leave this out";
        found.when(!of.ca_certificates.is_empty(), &format!("{at}/caCertificates"), message);
        found.when(!of.ca_crl.is_empty(), &format!("{at}/caCrl"), message);
        found.when(!of.subject_alt_names.is_empty(), &format!("{at}/subjectAltNames"), message);
    }
}
