"""Load generators. Each returns a `Load`: how much was done in one run, and how fast."""
import collections, json, os, re, socket, statistics, subprocess, sys, threading, time

Load = collections.namedtuple("Load", "done rate p50 p99")
UNIT = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def http1(args, port, seconds):
    """wrk: keep-alive connections, as fast as they go."""
    out = run(["wrk", "-t1", f"-c{args.connections}", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/bench"])
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit(f"the load saw errors:\n{out}")

    def latency(percent):
        value, scale = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)", out).groups()
        return float(value) * UNIT[scale]
    done = int(re.search(r"(\d+) requests in", out).group(1))
    return Load(done, float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)), latency(50), latency(99))


def http2(work, port, seconds, grpc=False, connections=8, streams=8):
    """h2load: connections with several streams each; `grpc` posts a message and gets one, with trailers."""
    log = work / "h2load.log"
    log.unlink(missing_ok=True)
    command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", f"--log-file={log}"]
    if grpc:
        sent = work / "message"
        sent.write_bytes(message("x" * 100))
        command += [f"-d{sent}", "-H", "content-type: application/grpc", "-H", "te: trailers"]
    out = run(command + [f"http://127.0.0.1:{port}/bench{'.grpc' if grpc else ''}"])
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", out)
    done, failed, errored = map(int, counts.groups())
    if failed or errored:
        sys.exit(f"the load saw errors:\n{out}")
    times = sorted(int(line.rsplit(None, 1)[1]) / 1e3 for line in log.open())
    return Load(done, done / seconds, times[len(times) // 2], times[len(times) * 99 // 100])


def message(text):
    """A gRPC message: not compressed, and its length."""
    return b"\0" + len(text).to_bytes(4, "big") + text.encode()


def fixed_rate(meltemi, port, seconds, rate):
    """Our own application's client, at a constant rate whatever the answers take."""
    report = json.loads(run([meltemi, "app", "get", f"http://127.0.0.1:{port}/bench", "--rate", str(rate), "-c", "16",
                             "--duration", f"{seconds}s", "--json"]).strip().splitlines()[-1])
    if report["failed"]:
        sys.exit(f"the load saw errors: {report}")
    return Load(report["requests"], report["rate"], report["p50_ms"], report["p99_ms"])


def handshakes(work, port, seconds):
    """openssl: a new mTLS connection after the other, never resumed, closed as soon as it is there."""
    out = run(["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-time", str(seconds),
               "-cert", "client.pem", "-key", "client.key", "-CAfile", "root.pem", "-verify", "2"], cwd=work)
    done = int(re.search(r"(\d+) connections in [\d.]+ real seconds", out).group(1))
    if not done:
        sys.exit(f"no connection came about:\n{out}")
    return Load(done, done / seconds, 0.0, 0.0)


class Sink:
    """Counts bytes and throws them away inside the kernel."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.total = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self.drain, args=(stream,), daemon=True).start()

    def drain(self, stream):
        buffer = bytearray(1 << 20)
        # MSG_TRUNC on a TCP socket: the bytes are taken, but not copied.
        while taken := stream.recv_into(buffer, len(buffer), socket.MSG_TRUNC):
            self.total += taken


def bytes_through(sink, port, seconds, streams=4):
    """Some connections that send as fast as they can, until the sink has all."""
    before = sink.total
    source = os.memfd_create("zeros")
    os.truncate(source, 1 << 20)
    until = time.monotonic() + seconds
    sent = [0] * streams

    def send(index):
        with socket.create_connection(("127.0.0.1", port)) as stream:
            while time.monotonic() < until:
                offset = 0
                while offset < 1 << 20:
                    moved = os.sendfile(stream.fileno(), source, offset, (1 << 20) - offset)
                    offset += moved
                    sent[index] += moved
    threads = [threading.Thread(target=send, args=(i,)) for i in range(streams)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    deadline = time.monotonic() + 10
    while sink.total - before < sum(sent):
        if time.monotonic() > deadline:
            sys.exit(f"{sum(sent)} bytes were sent, {sink.total - before} came")
        time.sleep(0.01)
    os.close(source)
    return Load(sum(sent), sum(sent) / seconds, 0.0, 0.0)


def run(command, cwd=None):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def median(rows):
    return [statistics.median(column) for column in zip(*rows)]
