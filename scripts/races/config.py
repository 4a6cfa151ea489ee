"""Static configurations that Envoy and Meltemi both read."""
import json, subprocess

TYPE = "type.googleapis.com/"
LOG_FIELDS = {
    "start_time": "START_TIME", "method": "REQ(:METHOD)", "path": "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)",
    "protocol": "PROTOCOL", "response_code": "RESPONSE_CODE", "response_flags": "RESPONSE_FLAGS",
    "response_code_details": "RESPONSE_CODE_DETAILS", "bytes_received": "BYTES_RECEIVED", "bytes_sent": "BYTES_SENT",
    "duration": "DURATION", "request_id": "REQ(X-REQUEST-ID)", "authority": "REQ(:AUTHORITY)",
    "user_agent": "REQ(USER-AGENT)", "upstream_host": "UPSTREAM_HOST", "upstream_cluster": "UPSTREAM_CLUSTER",
    "downstream_local_address": "DOWNSTREAM_LOCAL_ADDRESS",
    "downstream_remote_address": "DOWNSTREAM_REMOTE_ADDRESS", "route_name": "ROUTE_NAME"}


def any_of(kind, **fields):
    return {"@type": TYPE + kind, **fields}


def bootstrap(listeners, clusters, static_secrets=()):
    return {"static_resources": {"listeners": listeners, "clusters": clusters, "secrets": list(static_secrets)}}


def address(port, ip="127.0.0.1"):
    return {"socket_address": {"address": ip, "port_value": port}}


def listener(name, port, network_filter, tls=None, ip="127.0.0.1"):
    chain = {"filters": [network_filter]}
    if tls:
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return {"name": name, "address": address(port, ip), "filter_chains": [chain]}


def http_listener(name, port, cluster_name, filters=(), tls=None, log=None, istio=False, tracing=False, direct=False):
    """One route to one cluster. `istio` adds Istio's own filters, which stock Envoy does not have."""
    filters = list(filters)
    if istio:
        filters.append(istio_filter("istio.metadata_exchange", "io.istio.http.peer_metadata.Config"))
        filters.append(istio_filter("istio.stats", "stats.PluginConfig"))
    filters.append(http_filter("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"))
    action = {"direct_response": {"status": 200}} if direct else {"route": {"cluster": cluster_name, "timeout": "30s"}}
    manager = any_of(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name, codec_type="AUTO", generate_request_id=log is not None,
        route_config={"name": "r", "virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}]},
        http_filters=filters)
    if tracing:
        manager["tracing"] = {"random_sampling": {"value": 1.0}}
    if log:
        fields = {key: f"%{operator}%" for key, operator in LOG_FIELDS.items()}
        manager["access_log"] = [{"name": "envoy.access_loggers.file", "typed_config": any_of(
            "envoy.extensions.access_loggers.file.v3.FileAccessLog", path=log, log_format={"json_format": fields})}]
    return listener(name, port, {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}, tls)


def http_filter(name, kind):
    return {"name": name, "typed_config": any_of(kind)}


def istio_filter(name, kind):
    return {"name": name, "typed_config": any_of("udpa.type.v1.TypedStruct", type_url=TYPE + kind, value={})}


def tcp_listener(name, port, cluster_name, ip="127.0.0.1"):
    proxy = any_of("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", stat_prefix=name, cluster=cluster_name)
    return listener(name, port, {"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}, ip=ip)


def cluster(name, ports, tls=None, http2=False):
    """One endpoint for each port."""
    ports = ports if isinstance(ports, list) else [ports]
    endpoints = [{"endpoint": {"address": address(port)}} for port in ports]
    made = {"name": name, "type": "STATIC", "connect_timeout": "5s", "lb_policy": "LEAST_REQUEST", "load_assignment": {
        "cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}}
    if http2:
        kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        made["typed_extension_protocol_options"] = {
            kind: any_of(kind, explicit_http_config={"http2_protocol_options": {}})}
    if tls:
        made["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return made


def common_tls():
    names = {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}}]}
    return {"alpn_protocols": ["http/1.1"], "tls_certificate_sds_secret_configs": [{"name": "default"}],
            "combined_validation_context": {"default_validation_context": names,
                                            "validation_context_sds_secret_config": {"name": "ROOTCA"}}}


def server_tls():
    return any_of("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                  common_tls_context=common_tls(), require_client_certificate=True)


def client_tls():
    return any_of("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=common_tls(), sni="peer")


def rbac():
    principal = {"authenticated": {"principal_name": {"exact": "spiffe://cluster.local/ns/bench/sa/client"}}}
    policy = {"permissions": [{"any": True}], "principals": [principal]}
    return {"name": "envoy.filters.http.rbac", "typed_config": any_of(
        "envoy.extensions.filters.http.rbac.v3.RBAC", rules={"action": "ALLOW", "policies": {"client": policy}})}


def secrets(folder, who):
    inline = lambda name: {"inline_string": (folder / name).read_text()}
    return [{"name": "default", "tls_certificate": {"certificate_chain": inline(f"{who}.pem"), "private_key": inline(f"{who}.key")}},
            {"name": "ROOTCA", "validation_context": {"trusted_ca": inline("root.pem")}}]


def certificates(folder):
    """A root, and leaves for `client` and `server` with SPIFFE names; ECDSA P-256 as Istio's."""
    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=folder)
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "root.key")
    openssl("req", "-x509", "-new", "-key", "root.key", "-days", "2", "-subj", "/O=bench", "-out", "root.pem")
    for who in ["client", "server"]:
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{who}.ec")
        openssl("pkcs8", "-topk8", "-nocrypt", "-in", f"{who}.ec", "-out", f"{who}.key")
        openssl("req", "-new", "-key", f"{who}.key", "-subj", "/O=bench", "-out", f"{who}.csr")
        (folder / f"{who}.ext").write_text(
            f"subjectAltName=critical,URI:spiffe://cluster.local/ns/bench/sa/{who}\n"
            "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n")
        openssl("x509", "-req", "-in", f"{who}.csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial",
                "-days", "1", "-extfile", f"{who}.ext", "-out", f"{who}.pem")


def write(path, config):
    path.write_text(json.dumps(config, indent=1))
    return path
