"""Processes: starting, waiting for, and accounting for them."""
import os, pathlib, re, shutil, signal, socket, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ENVOY = ROOT / "target/tools/envoy"
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def descendants(pid):
    """A process and all below it."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def cpu_seconds(pids):
    """User and system time so far. The scheduler's own clock where it is kept: ticks are too coarse for short runs."""
    total = 0.0
    for pid in pids:
        nanoseconds = 0
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            try:
                nanoseconds += int((task / "schedstat").read_text().split()[0])
            except OSError:
                nanoseconds = 0
                break
        if nanoseconds:
            total += nanoseconds / 1e9
        else:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


class Memory:
    """Resident memory of processes in MiB: all of it, what they allocated, and pages of files (the program itself)."""

    def __init__(self, pids):
        def read(name):
            texts = [pathlib.Path(f"/proc/{pid}/status").read_text() for pid in pids]
            return sum(int(m.group(1)) for t in texts if (m := re.search(rf"{name}:\s+(\d+)", t))) / 1024
        self.all, self.own, self.file = read("VmRSS"), read("RssAnon"), read("RssFile")

    def __str__(self):
        return f"{self.all:.1f} MiB ({self.own:.1f} + {self.file:.1f} of files)"


class Stage:
    """A folder for one row of the bench, and the processes that run in it."""

    def __init__(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="meltemi-bench-"))
        self.started = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.work, ignore_errors=True)

    def start(self, name, command, port=None):
        with open(self.work / f"{name}.log", "wb") as log:
            process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=log, cwd=self.work)
        self.started.append(process)
        if port:
            self.wait_for(port, process, name)
        return process.pid

    def stop(self, pid):
        process = next(p for p in self.started if p.pid == pid)
        process.terminate()
        process.wait(10)

    def wait_for(self, port, process, name):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if process.poll() is not None:
                sys.exit(f"{name} ended at once:\n{(self.work / f'{name}.log').read_text()[-2000:]}")
            with socket.socket() as s:
                s.settimeout(0.5)
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.002)
        sys.exit(f"{name} does not listen on port {port}")
