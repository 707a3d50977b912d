"""How fast a guest moves, and how long it stands still: testudo beside QEMU on the same /dev/kvm.

    /usr/bin/python3 tests/bench/migrate.py [--build DIR] [--runs N] [--mib 1024] [--only WORD]

The payload is the heartbeat of tests/guest: every processor counts and keeps the longest gap between two beats. The
clock runs from the request until the destination's heart beats, read from guest memory itself, never from the
sender's own figures; the blackout is the longest gap that the guest saw. Memory is filled from outside, with bytes of
one seed, with zeros, or not at all. Contestants are interleaved; of QEMU every number of multifd channels runs, and
the best counts.
"""
import argparse
import atexit
import json
import mmap
import os
import pathlib
import random
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import facts  # noqa: E402  (found through the line above)
import peer  # noqa: E402

HEART = 0x40000
HEAD = struct.Struct("<QII6Q")
MAGIC = 0x7461656274726165
FILL_FROM = 34 << 20  # the guest's own code, heap and heart are below
LOW_END = 3 << 30     # RAM goes on at 4 GiB for the guest, without a hole in the memfd


class Qmp:
    """A connection to a monitor."""

    def __init__(self, path, timeout=20):
        end = time.monotonic() + timeout
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(str(path))
                break
            except OSError:
                self.sock.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.001)
        self.file = self.sock.makefile("rwb")
        self.next()
        self.ask("qmp_capabilities")

    def next(self):
        line = self.file.readline()
        if not line:
            raise EOFError("the monitor's connection ended")
        return json.loads(line)

    def ask(self, command, **arguments):
        message = {"execute": command}
        if arguments:
            message["arguments"] = {k.replace("_", "-") if k != "uri" else k: v for k, v in arguments.items()}
        self.file.write(json.dumps(message).encode() + b"\n")
        self.file.flush()
        while True:
            answer = self.next()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")

    def close(self):
        self.file.close()
        self.sock.close()


class Vm:
    """A VMM with the heartbeat in it, or one that waits for it."""

    def __init__(self, command, where, env=None):
        self.log = open(f"{where}.log", "wb")
        self.p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=env)
        self.where = where
        self.map = None

    def memory(self, timeout=20):
        """Guest RAM, mapped."""
        end = time.monotonic() + timeout
        while self.map is None:
            if self.p.poll() is not None or time.monotonic() > end:
                sys.exit(f"no guest memory: {self.p.args}\n{open(self.log.name).read()}")
            try:
                for fd in os.listdir(f"/proc/{self.p.pid}/fd"):
                    path = f"/proc/{self.p.pid}/fd/{fd}"
                    name = os.readlink(path)
                    if name.startswith(("/memfd:guest-ram", "/memfd:memory-backend-memfd")):
                        with open(path, "r+b", buffering=0) as f:
                            if os.fstat(f.fileno()).st_size:
                                self.map = mmap.mmap(f.fileno(), 0)
                                return self.map
            except OSError:
                pass
            time.sleep(0.0005)
        return self.map

    def beats(self):
        """The first processor's count; 0 as long as there is none."""
        m = self.memory()
        if struct.unpack_from("<Q", m, HEART)[0] != MAGIC:
            return 0
        return struct.unpack_from("<Q", m, HEART + HEAD.size)[0]

    def wait_beats(self, more=1000, timeout=60):
        end = time.monotonic() + timeout
        start = self.beats()
        while self.beats() < start + more:
            if self.p.poll() is not None or time.monotonic() > end:
                sys.exit(f"the guest's heart stands still: {self.p.args}\n{open(self.log.name).read()}")
            time.sleep(0.001)

    def clear_gap(self):
        for cpu in range(struct.unpack_from("<I", self.memory(), HEART + 12)[0]):
            struct.pack_into("<Q", self.memory(), HEART + HEAD.size + 64 * cpu + 16, 0)

    def gap_ms(self):
        """Longest time between two beats of any processor."""
        m = self.memory()
        n, khz = struct.unpack_from("<I", m, HEART + 12)[0], struct.unpack_from("<Q", m, HEART + 16)[0]
        return max(struct.unpack_from("<Q", m, HEART + HEAD.size + 64 * cpu + 16)[0] for cpu in range(n)) / khz

    def anonymous_kib(self):
        """Memory of its own: guest RAM is shared memory and does not count."""
        for line in pathlib.Path(f"/proc/{self.p.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
        return 0

    def cpu_seconds(self):
        stat = pathlib.Path(f"/proc/{self.p.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        if self.map is not None:
            self.map.close()
        self.p.kill()
        self.p.wait()
        self.log.close()


class Testudo:
    """How testudo is started and told to move."""

    def __init__(self, build, options=()):
        self.options = options  # of testudo run, on both sides
        self.binary = f"{build}/vmm/testudo"
        self.guest = f"{build}/tests/guest/guest.elf"
        # hosts of benchmarks need not be able to hold bits
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as f:
            f.write("version: 1\nincoming-cannot: warn\n")
        self.policy = f.name
        atexit.register(os.unlink, f.name)

    def env(self, where):
        return {**os.environ, "XDG_RUNTIME_DIR": os.path.dirname(where)}

    def source(self, where, mib, params):
        name = os.path.basename(where)
        return Vm([self.binary, "run", "--name", name, "--serial", "none", "-m", str(mib), "--no-rng", *self.options,
                   "-p", params, self.guest], where, self.env(where))

    def destination(self, where, mib, uri):
        name = os.path.basename(where)
        vm = Vm([self.binary, "run", "--name", name, "--serial", "none", "--no-rng", *self.options, "--policy",
                 self.policy, "--incoming", uri], where, self.env(where))
        monitor = Qmp(os.path.join(os.path.dirname(where), "testudo", name, "qmp.sock"))
        monitor.close()
        return vm

    def move(self, source, uri, limit_ms, local=False):
        """Start it. Return: a function that waits for the sender's own report"""
        command = [self.binary, "migrate", os.path.basename(source.where), uri, "--json", "--downtime-ms",
                   str(limit_ms)]
        p = subprocess.Popen(command + ["--local"] * local, env=self.env(source.where), stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)

        def report():
            out, err = p.communicate(timeout=120)
            if p.returncode:
                sys.exit(f"testudo migrate: {err.decode()}\n{open(source.log.name).read()}")
            last = json.loads(out.decode().splitlines()[-1])
            return last["downtime"], last["total-time"]
        return report


class Qemu:
    """QEMU's microvm with @channels multifd channels, 0 for none."""

    def __init__(self, build, channels):
        self.guest = f"{build}/tests/guest/guest.elf"
        self.cpu = peer.cpu(build)
        self.channels = channels
        self.monitor = None

    def command(self, where, mib, params):
        return [peer.QEMU, "-M", "microvm,accel=kvm,pic=on,pit=on,rtc=off,memory-backend=ram", "-cpu",
                self.cpu, "-object", f"memory-backend-memfd,id=ram,size={mib}M,share=on", "-m", str(mib), "-nodefaults",
                "-no-user-config", "-display", "none", "-no-reboot", "-qmp", f"unix:{where}.qmp,server=on,wait=off",
                "-kernel", self.guest, "-append", params]

    def set_up(self, monitor, limit_ms=None):
        if self.channels:
            monitor.ask("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": True}])
            monitor.ask("migrate-set-parameters", multifd_channels=self.channels)
        if limit_ms:
            monitor.ask("migrate-set-parameters", max_bandwidth=1 << 40, downtime_limit=limit_ms)

    def source(self, where, mib, params):
        return Vm(self.command(where, mib, params), where)

    def destination(self, where, mib, uri):
        vm = Vm([*self.command(where, mib, "heartbeat"), "-incoming", "defer"], where)
        monitor = Qmp(f"{where}.qmp")
        self.set_up(monitor)
        monitor.ask("migrate-incoming", uri=uri)
        monitor.close()
        return vm

    def move(self, source, uri, limit_ms, local=False):
        assert not local, "QEMU 7.2 cannot hand its memory over"
        monitor = Qmp(f"{source.where}.qmp")
        self.set_up(monitor, limit_ms)
        monitor.ask("migrate", uri=uri)

        def report():
            while True:
                state = monitor.ask("query-migrate")
                if state["status"] in ("completed", "failed"):
                    break
                time.sleep(0.005)
            monitor.close()
            if state["status"] != "completed":
                sys.exit(f"QEMU: {state}\n{open(source.log.name).read()}")
            return state["downtime"], state["total-time"]
        return report


def fill(vm, mib, what):
    """Memory above the guest's own: bytes of one seed, zeros that are there, or nothing."""
    if what == "untouched":
        return
    block = random.Random(1).randbytes(1 << 20) if what == "random" else bytes(1 << 20)
    m = vm.memory()
    for at in range(FILL_FROM, mib << 20, 1 << 20):
        m[at:at + (1 << 20)] = block


def one_move(contestant, work, number, mib, what, transport, params, limit_ms, check):
    """Return: dict of figures in ms"""
    base = os.path.join(work, f"{number}")
    source = contestant.source(f"{base}a", mib, params)
    destination = None
    try:
        source.wait_beats()
        fill(source, mib, what)
        uri = f"tcp:127.0.0.1:{20000 + number}" if transport == "tcp" else f"unix:{base}.mig"
        destination = contestant.destination(f"{base}b", mib, uri)
        if "wss" in params:
            time.sleep(0.5)
        time.sleep(0.05)
        source.clear_gap()
        cpu = source.cpu_seconds() + destination.cpu_seconds()
        own = most = source.anonymous_kib()
        begin = time.monotonic_ns()
        report = contestant.move(source, uri, limit_ms, transport == "local")
        while destination.map is None or not destination.beats():
            destination.memory()
            time.sleep(0.0005)
        last = destination.beats()
        while destination.beats() == last:
            most = max(most, source.anonymous_kib())
            if time.monotonic_ns() - begin > 120e9:
                sys.exit(f"the guest did not arrive\n{open(destination.log.name).read()}")
            time.sleep(0.0002)
        ready = (time.monotonic_ns() - begin) / 1e6
        downtime, total = report()
        destination.wait_beats(100)
        cpu = source.cpu_seconds() + destination.cpu_seconds() - cpu
        if check and what != "untouched":
            a, b = source.memory(), destination.memory()
            for at in range(FILL_FROM, mib << 20, 1 << 20):  # not all at once: that would be two copies of it
                if a[at:at + (1 << 20)] != b[at:at + (1 << 20)]:
                    sys.exit("memory did not arrive as it was")
        return {"ready": ready, "blackout": destination.gap_ms(), "downtime": downtime, "total": total, "cpu": cpu,
                "extra": most - own}
    finally:
        source.end()
        if destination:
            destination.end()


def p99(values):
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


SCENARIOS = [
    # name, memory, transport, parameters of the load, goal of the ratio to QEMU's best
    ("random unix", "random", "unix", "heartbeat", 0.85),
    ("random tcp", "random", "tcp", "heartbeat", 0.85),
    ("zero unix", "zero", "unix", "heartbeat", 0.25),
    ("untouched unix", "untouched", "unix", "heartbeat", None),
    ("writing unix", "random", "unix", "dirty wss=64 rate=20000", None),
    ("handed over", "random", "local", "heartbeat", None),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--limit-ms", type=int, default=20)
    parser.add_argument("--only", default="", help="scenarios whose name has this in it")
    parser.add_argument("--peer", default="0,2,4", help="numbers of QEMU's multifd channels; empty: without QEMU")
    parser.add_argument("--dirty-ring", default="", help="beside the dirty log, also with rings of that many entries")
    options = parser.parse_args()
    build = os.path.abspath(options.build)
    facts.need(build, "tests/guest/guest.elf", "tests/guest/first.elf")
    facts.print_facts()

    contestants = {"testudo": Testudo(build)}
    if options.dirty_ring:
        contestants["testudo, dirty ring"] = Testudo(build, ("--dirty-ring", options.dirty_ring))
    for n in filter(None, options.peer.split(",")):
        contestants[f"QEMU multifd {n}" if n != "0" else "QEMU"] = Qemu(build, int(n))
    number = 0
    for name, what, transport, params, goal in SCENARIOS:
        if options.only not in name:
            continue
        those = {c: v for c, v in contestants.items() if transport != "local" or c == "testudo"}
        runs = {c: [] for c in those}
        for run in range(options.runs + 1):
            for c, contestant in those.items():
                number += 1
                work = tempfile.mkdtemp(prefix="migrate-")
                try:
                    figures = one_move(contestant, work, number, options.mib, what, transport, params,
                                       options.limit_ms, check=run == 0 and "wss" not in params)
                finally:
                    shutil.rmtree(work)
                if run:  # the first warms the host's memory
                    runs[c].append(figures)
        print(f"\n| {name}, {options.mib} MiB | ready median ms | min | p95 | blackout p50 ms | p99 | own downtime ms "
              "| CPU s | source's extra memory KiB |\n|---|---|---|---|---|---|---|---|---|")
        for c, rows in runs.items():
            ready = sorted(r["ready"] for r in rows)
            black = [r["blackout"] for r in rows]
            print(f"| {c} | {statistics.median(ready):.0f} | {ready[0]:.0f} | {ready[int(len(ready) * .95)]:.0f} "
                  f"| {statistics.median(black):.1f} | {p99(black):.1f} "
                  f"| {statistics.median(r['downtime'] for r in rows):.0f} "
                  f"| {statistics.median(r['cpu'] for r in rows):.2f} | {max(r['extra'] for r in rows)} |")
        peers = [statistics.median(r["ready"] for r in rows) for c, rows in runs.items() if c.startswith("QEMU")]
        if peers:
            ours = statistics.median(r["ready"] for r in runs["testudo"])
            print(f"\nratio to the best QEMU: {ours / min(peers):.2f}" + (f" (goal {goal})" if goal else ""))
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
