"""Memory of whole sidecars in a mesh that the laptop runs: our agent with its data plane, and a stock Envoy beside it,
both fed by the same istiod with the same services."""
import json, os, pathlib, subprocess, sys, time

import races
from process import ENVOY, Memory, Stage, descendants


def resources(folder, services):
    """So many services of five endpoints each, and two applications with a sidecar: ours, and Envoy."""
    entries = []
    for i in range(services):
        ips = [f"10.{100 + i // 10000}.{i // 50 % 200}.{i % 50 * 5 + k}" for k in range(5)]
        entries.append({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": f"s{i}", "namespace": "shop"},
            "spec": {"hosts": [f"s{i}.shop.svc.cluster.local"], "location": "MESH_INTERNAL", "resolution": "STATIC",
                     "addresses": [f"10.{200 + i // 60000}.{i // 250 % 240}.{i % 250 + 1}"],
                     "ports": [{"number": 8080, "name": "http", "protocol": "HTTP"}],
                     "endpoints": [{"address": ip} for ip in ips]}})
    objects = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"istio-injection": "enabled"}}}]
    for name, annotations in [("ours", {}), ("stock", {"meltemi.dev/envoy": str(ENVOY)})]:
        meta = {"labels": {"app": name}, "annotations": annotations}
        container = {"name": "app", "image": "app", "command": ["meltemi", "app", "--http", "8080"],
                     "ports": [{"containerPort": 8080}]}
        objects.append({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "shop"},
                        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}},
                                 "template": {"metadata": meta, "spec": {"containers": [container]}}}})
    # A file of a directory source may hold a megabyte at most.
    for index in range(0, len(entries), 200):
        text = "\n---\n".join(json.dumps(e) for e in entries[index:index + 200])
        (folder / f"entries-{index}.yaml").write_text(text)
    (folder / "apps.yaml").write_text("\n---\n".join(json.dumps(o) for o in objects))


def command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def memory(options):
    """Resident memory at rest, by size of the mesh; Istio's default of two workers."""
    results = {}
    print("\n### Resident memory of a sidecar at rest, agent included\n")
    print("| services | Meltemi: agent and data plane | of it allocated | Envoy | x Envoy | istiod |\n|---|---|---|---|---|---|")
    for services in options.services:
        with Stage() as stage:
            row = one_mesh(options, stage, services)
        results[services] = row
        ratio = row["meltemi"] / row["envoy"] if row["envoy"] else float("nan")
        print(f"| {services:,} | {row['meltemi']:.1f} MiB | {row['allocated']:.1f} MiB | {row['envoy']:.1f} MiB | {ratio:.2f} | {row['istiod']:.1f} MiB |", flush=True)
    if 10 in results:
        races.verdict(options, "Resident at 10 services", results[10]["meltemi"], 15, unit="MiB")
    if 5000 in results:
        races.verdict(options, "Resident at 5,000 services", results[5000]["meltemi"], 20, unit="MiB")
    return results


def one_mesh(options, stage, services):
    folder = stage.work / "mesh"
    folder.mkdir()
    resources(folder, services)
    name = f"bench-{os.getpid()}-{services}"
    path = f"{pathlib.Path(options.meltemi).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "MELTEMI_STATE": str(stage.work / "state"), "MELTEMI_MESH": name, "PATH": path}
    call = lambda *a: subprocess.run([str(options.meltemi), *a], env=environment, capture_output=True, text=True)
    up = call("up", str(folder), "--detach", "--wait", "5m")
    try:
        if up.returncode:
            sys.exit(f"the mesh of {services} services does not come up:\n{up.stdout}{up.stderr}")
        # Allocators give freed pages back within seconds.
        time.sleep(options.rest)
        node = int((stage.work / "state" / name / "node.pid").read_text())
        found = {"meltemi": [], "envoy": [], "istiod": []}
        for pid in descendants(node):
            line = command_line(pid)
            if "pilot-agent" in " ".join(line[:2]) and "--envoy" not in line:
                found["meltemi"].append(pid)
            elif line and os.path.basename(line[0]) == "envoy":
                found["envoy"].append(pid)
            elif "istiod" in " ".join(line[:2]):
                found["istiod"].append(pid)
        memory = {who: Memory(pids) for who, pids in found.items()}
        return {**{who: m.all for who, m in memory.items()}, "allocated": memory["meltemi"].own}
    finally:
        call("down")
