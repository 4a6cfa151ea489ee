//! Compiles the Envoy API from the .proto files that the registry package `envoy-types` ships, and our own few Istio
//! messages, into Rust types and a descriptor set (for proto-JSON).

use std::path::PathBuf;

/// The files a sidecar and its control plane speak; what they import follows.
const ROOTS: &[&str] = &[
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/status/v3/csds.proto",
    "envoy/service/secret/v3/sds.proto",
    "envoy/admin/v3/config_dump.proto",
    "envoy/admin/v3/clusters.proto",
    "envoy/admin/v3/listeners.proto",
    "envoy/admin/v3/certs.proto",
    "envoy/admin/v3/server_info.proto",
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/config/trace/v3/opentelemetry.proto",
    "envoy/config/trace/v3/zipkin.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/access_loggers/stream/v3/stream.proto",
    "envoy/extensions/clusters/dynamic_forward_proxy/v3/cluster.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/dynamic_forward_proxy/v3/dynamic_forward_proxy.proto",
    "envoy/extensions/filters/http/fault/v3/fault.proto",
    "envoy/extensions/filters/http/grpc_stats/v3/config.proto",
    "envoy/extensions/filters/http/jwt_authn/v3/config.proto",
    "envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/http/rbac/v3/rbac.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/http/set_filter_state/v3/set_filter_state.proto",
    "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
    "envoy/extensions/filters/listener/original_dst/v3/original_dst.proto",
    "envoy/extensions/filters/listener/proxy_protocol/v3/proxy_protocol.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/rbac/v3/rbac.proto",
    "envoy/extensions/filters/network/sni_cluster/v3/sni_cluster.proto",
    "envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3/sni_dynamic_forward_proxy.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/http/header_formatters/preserve_case/v3/preserve_case.proto",
    "envoy/extensions/network/dns_resolver/cares/v3/cares_dns_resolver.proto",
    "envoy/extensions/request_id/uuid/v3/uuid.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/retry/priority/previous_priorities/v3/previous_priorities_config.proto",
    "envoy/extensions/tracers/opentelemetry/resource_detectors/v3/environment_resource_detector.proto",
    "envoy/extensions/transport_sockets/proxy_protocol/v3/upstream_proxy_protocol.proto",
    "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
];

/// Our own files under proto/.
const OURS: &[&str] = &[
    "istio/ca.proto",
    "istio/nds.proto",
    "istio/typed_struct_udpa.proto",
    "istio/typed_struct_xds.proto",
    "istio/alpn.proto",
    "istio/metadata_exchange.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let shipped = envoy_types_protos()?;
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("proto");
    let mut includes: Vec<PathBuf> =
        std::fs::read_dir(&shipped)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    includes.push(here);
    includes.push(protoc_bin_vendored::include_path()?);

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut prost = prost_build::Config::new();
    prost
        .protoc_executable(protoc_bin_vendored::protoc_bin_path()?)
        .compile_well_known_types()
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .bytes([".google.protobuf.Any"])
        .file_descriptor_set_path(out.join("descriptors.bin"))
        .include_file("mod.rs");
    let files: Vec<&str> = ROOTS.iter().chain(OURS).copied().collect();
    let includes: Vec<String> = includes.iter().map(|p| p.display().to_string()).collect();
    let includes: Vec<&str> = includes.iter().map(String::as_str).collect();
    tonic_prost_build::configure()
        .build_server(true)
        .build_client(true)
        .emit_rerun_if_changed(false)
        .compile_with_config(prost, &files, &includes)?;
    Ok(())
}

/// The `proto/` folder of the downloaded `envoy-types` package.
fn envoy_types_protos() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml"))
        .features(cargo_metadata::CargoOpt::AllFeatures)
        // `cargo build` does not download what no feature enables: this call does, once, for this platform alone.
        .other_options(["--filter-platform".to_owned(), std::env::var("TARGET")?])
        .exec()?;
    let package = metadata
        .packages
        .iter()
        .find(|p| p.name.as_str() == "envoy-types")
        .ok_or("the package envoy-types is not in the dependency graph of envoy-api")?;
    let root = package.manifest_path.parent().ok_or("envoy-types has no folder")?;
    Ok(root.join("proto").into())
}
