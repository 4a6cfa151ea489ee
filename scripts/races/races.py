"""The races: the same configuration for Envoy and Meltemi, interleaved rounds, medians."""
import collections, pathlib, re, subprocess, sys, time

import config, load
from process import ENVOY, Memory, Stage, cpu_seconds, descendants, free_port

Racer = collections.namedtuple("Racer", "port roots")
BODY = "x" * 100
PEERS = [("Envoy 1.40", "envoy"), ("Meltemi", "meltemi")]


def proxy(stage, options, name, binary, made, port, workers=1):
    """Starts one of the two on a static configuration."""
    path = config.write(stage.work / f"{name}.json", made)
    if binary == "envoy":
        command = [ENVOY, "-c", path, "--concurrency", workers, "--use-dynamic-base-id", "-l", "error"]
    else:
        command = [options.static_proxy, "--config", path, "--workers", workers]
    return stage.start(name, command, port)


def backend(stage):
    """nginx with a small answer."""
    port = free_port()
    (stage.work / "backend.conf").write_text(f"""worker_processes 1; pid {stage.work}/backend.pid; error_log {stage.work}/backend.err; daemon off;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
  server {{ listen 127.0.0.1:{port} reuseport; location / {{ return 200 "{BODY}"; }} }} }}
""")
    stage.start("backend", ["nginx", "-c", stage.work / "backend.conf"], port)
    return port


def backend2(stage, grpc):
    """nghttpd with a small answer; as a gRPC server it sends a message and trailers. (nginx writes its answers one by one,
    and is slower at HTTP/2 than what is raced here: it would set the pace, and the size of all reads and writes.)"""
    port, files = free_port(), stage.work / "files"
    files.mkdir()
    (files / "bench").write_text(BODY)
    (files / "bench.grpc").write_bytes(load.message(BODY))
    types = stage.work / "mime.types"
    types.write_text("application/grpc grpc\n")
    trailers = ["--trailer", "grpc-status: 0"] if grpc else []
    command = ["nghttpd", "--no-tls", "-n1", "-a", "127.0.0.1", "-d", files, f"--mime-types-file={types}", *trailers, port]
    stage.start("backend", command, port)
    return port


def race(options, title, racers, measure, unit="us", bar=None, note=""):
    """`measure(port, seconds)` gives a `Load`. The cost is CPU time over what was done: less is better; with
    `unit="/s"` it is what was done in a second of CPU time: more is better."""
    rounds = {name: [] for name in racers}
    for name, racer in racers.items():
        measure(racer.port, 1)
    for turn in range(options.rounds):
        for name, racer in racers.items():
            pids = [p for root in racer.roots for p in descendants(root)]
            before = cpu_seconds(pids)
            done, rate, p50, p99 = measure(racer.port, options.seconds)
            spent = max(cpu_seconds(pids) - before, 1e-9)
            cost = spent / done * 1e6 if unit == "us" else done / spent
            memory = Memory(pids)
            rounds[name].append((cost, rate, p50, p99, memory.all, memory.own))
            print(f"  {title}, round {turn + 1}: {name} {cost:,.1f} {unit}", file=sys.stderr)
    rows = {name: load.median(runs) for name, runs in rounds.items()}
    base = rows["Envoy 1.40"][0]
    what = "CPU per request" if unit == "us" else "per CPU second"
    print(f"\n### {title}\n\n| proxy | {what} | x Envoy | a second | p50 | p99 | resident (allocated) |\n|---|---|---|---|---|---|---|")
    for name, (cost, rate, p50, p99, rss, own) in rows.items():
        cost_text = f"{cost:.1f} us" if unit == "us" else f"{cost:,.0f}"
        times = f"{p50:.2f} ms | {p99:.2f} ms" if p50 else "- | -"
        print(f"| {name} | {cost_text} | {cost / base:.2f} | {rate:,.0f} | {times} | {rss:.1f} ({own:.1f}) MiB |")
    verdict(options, title, rows["Meltemi"][0] / base, bar, more=unit == "/s")
    if note:
        print(f"\n{note}")
    keys = ["cost" if unit == "us" else "per_cpu_second", "rate", "p50_ms", "p99_ms", "resident_mib", "allocated_mib"]
    return {name: dict(zip(keys, row)) for name, row in rows.items()}


def verdict(options, title, value, bar, more=False, unit="x Envoy"):
    if bar is None:
        return
    held = value >= bar if more else value <= bar
    print(f"\nMeltemi: {value:.2f} {unit}, bar {'>=' if more else '<='} {bar}: {'held' if held else 'MISSED'}")
    options.verdicts.append((title, value, bar, held))


def hop(options):
    """One hop, HTTP/1.1, router filter only; nginx and HAProxy beside."""
    with Stage() as stage:
        upstream = backend(stage)
        racers = {}
        for title, binary in PEERS:
            port = free_port()
            made = config.bootstrap([config.http_listener("in", port, "backend")], [config.cluster("backend", upstream)])
            racers[title] = Racer(port, [proxy(stage, options, binary, binary, made, port)])
        racers["nginx"] = nginx(stage, upstream)
        racers["HAProxy"] = haproxy(stage, upstream)
        measure = lambda port, seconds: load.http1(options, port, seconds)
        result = race(options, "One hop, HTTP/1.1", racers, measure, bar=0.5)
        verdict(options, "Resident after the hop's load", result["Meltemi"]["resident_mib"], 20, unit="MiB")
        return result


def nginx(stage, upstream):
    port = free_port()
    (stage.work / "nginx.conf").write_text(f"""worker_processes 1; pid {stage.work}/nginx.pid; error_log {stage.work}/nginx.err; daemon off;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000; upstream b {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}
""")
    return Racer(port, [stage.start("nginx", ["nginx", "-c", stage.work / "nginx.conf"], port)])


def haproxy(stage, upstream):
    port = free_port()
    (stage.work / "haproxy.cfg").write_text(f"""global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
listen l
  bind 127.0.0.1:{port}
  server b 127.0.0.1:{upstream}
""")
    return Racer(port, [stage.start("haproxy", ["haproxy", "-db", "-f", stage.work / "haproxy.cfg"], port)])


def http2(options):
    """One hop, HTTP/2 both sides."""
    return hop2(options, "One hop, HTTP/2, 8 connections x 8 streams", grpc=False)


def grpc(options):
    """The same with gRPC's shape: a message each way, and trailers."""
    return hop2(options, "One hop, gRPC, 8 connections x 8 streams", grpc=True)


def hop2(options, title, grpc):
    with Stage() as stage:
        upstream = backend2(stage, grpc)
        racers = {}
        for name, binary in PEERS:
            port = free_port()
            clusters = [config.cluster("backend", upstream, http2=True)]
            made = config.bootstrap([config.http_listener("in", port, "backend")], clusters)
            racers[name] = Racer(port, [proxy(stage, options, binary, binary, made, port)])
        measure = lambda port, seconds: load.http2(stage.work, port, seconds, grpc)
        return race(options, title, racers, measure, bar=0.45)


def pairs(stage, options, upstream):
    """Outbound and inbound sidecar with mTLS, RBAC, JSON access log, 1 % tracing flag; Istio's metrics where there are any."""
    config.certificates(stage.work)
    racers = {}
    for title, binary in PEERS:
        inner, outer = free_port(), free_port()
        mesh = {"log": str(stage.work / f"{binary}.access"), "istio": binary == "meltemi", "tracing": True}
        inbound = config.http_listener("in", inner, "app", [config.rbac()], tls=config.server_tls(), **mesh)
        outbound = config.http_listener("out", outer, "peer", **mesh)
        server = config.bootstrap([inbound], [config.cluster("app", upstream)], config.secrets(stage.work, "server"))
        peer = config.cluster("peer", inner, tls=config.client_tls())
        client = config.bootstrap([outbound], [peer], config.secrets(stage.work, "client"))
        roots = [proxy(stage, options, f"{binary}-in", binary, server, inner),
                 proxy(stage, options, f"{binary}-out", binary, client, outer)]
        racers[title] = Racer(outer, roots)
    return racers


def pair(options):
    """Client, outbound sidecar, mTLS, inbound sidecar, application."""
    with Stage() as stage:
        racers = pairs(stage, options, backend(stage))
        measure = lambda port, seconds: load.http1(options, port, seconds)
        note = ("Both sidecars together. Stock Envoy has no istio.stats and no metadata exchange: Meltemi does both here, "
                "Envoy has its own statistics instead.")
        return race(options, "Sidecar pair", racers, measure, bar=0.4, note=note)


def added(options):
    """What the pair adds to latency at 500 requests/s, against no proxy at all."""
    with Stage() as stage:
        upstream = backend(stage)
        ports = {"no proxy": upstream, **{n: r.port for n, r in pairs(stage, options, upstream).items()}}
        rounds = {name: [] for name in ports}
        for port in ports.values():
            load.fixed_rate(options.meltemi, port, 1, 500)
        for turn in range(options.rounds):
            for name, port in ports.items():
                _, _, p50, p99 = load.fixed_rate(options.meltemi, port, options.seconds, 500)
                rounds[name].append((p50, p99))
                print(f"  added latency, round {turn + 1}: {name} p99 {p99:.2f} ms", file=sys.stderr)
        rows = {name: load.median(runs) for name, runs in rounds.items()}
        direct = rows["no proxy"]
        more = {name: [value - base for value, base in zip(row, direct)] for name, row in rows.items()}
        print("\n### Sidecar pair at 500 requests/s\n\n| proxy | p50 | p99 | added p50 | added p99 |\n|---|---|---|---|---|")
        for name, (p50, p99) in rows.items():
            print(f"| {name} | {p50:.2f} ms | {p99:.2f} ms | {more[name][0]:.2f} ms | {more[name][1]:.2f} ms |")
        verdict(options, "Added p99 at 500 requests/s", more["Meltemi"][1] / max(more["Envoy 1.40"][1], 1e-3), 0.7)
        return {name: {"p50_ms": p50, "p99_ms": p99} for name, (p50, p99) in rows.items()}


def tcp(options):
    """Raw TCP through one hop."""
    with Stage() as stage:
        sink = load.Sink()
        racers = {}
        for title, binary in PEERS:
            port = free_port()
            made = config.bootstrap([config.tcp_listener("in", port, "sink")], [config.cluster("sink", sink.port)])
            racers[title] = Racer(port, [proxy(stage, options, binary, binary, made, port)])
        measure = lambda port, seconds: load.bytes_through(sink, port, seconds)
        return race(options, "Raw TCP, one hop, bytes", racers, measure, unit="/s", bar=1.5)


def handshakes(options):
    """mTLS connections, both certificates verified, no resumption, no request."""
    with Stage() as stage:
        config.certificates(stage.work)
        racers = {}
        for title, binary in PEERS:
            port = free_port()
            front = config.http_listener("in", port, "none", tls=config.server_tls(), direct=True)
            made = config.bootstrap([front], [], config.secrets(stage.work, "server"))
            racers[title] = Racer(port, [proxy(stage, options, binary, binary, made, port)])
        measure = lambda port, seconds: load.handshakes(stage.work, port, seconds)
        return race(options, "mTLS connections", racers, measure, unit="/s", bar=0.9)


def start(options):
    """From exec to the first connection accepted, ten services configured."""
    times = {title: [] for title, _ in PEERS}
    for turn in range(options.rounds):
        for title, binary in PEERS:
            with Stage() as stage:
                port = free_port()
                clusters = [config.cluster(f"c{i}", 9) for i in range(10)]
                made = config.bootstrap([config.http_listener("in", port, "c0")], clusters)
                before = time.monotonic()
                proxy(stage, options, binary, binary, made, port, workers=2)
                times[title].append(((time.monotonic() - before) * 1e3,))
    rows = {title: load.median(runs)[0] for title, runs in times.items()}
    print("\n### Start to the first connection, static configuration\n\n| proxy | time | x Envoy |\n|---|---|---|")
    for title, value in rows.items():
        print(f"| {title} | {value:.0f} ms | {value / rows['Envoy 1.40']:.2f} |")
    verdict(options, "Start to ready", rows["Meltemi"], 300, unit="ms")
    return rows
