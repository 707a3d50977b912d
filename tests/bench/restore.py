"""From a file to a running guest: testudo beside QEMU on the same /dev/kvm.

    /usr/bin/python3 tests/bench/restore.py [--build DIR] [--runs N] [--mib 128,1024,8192] [--no-peer]

The payload is the heartbeat of tests/guest with 64 MiB of random bytes in its memory, saved once by each contestant.
The clock runs from exec of the VMM with the file until the guest's heart beats again, read from guest memory itself.
QEMU 7.2 knows no file: its restore reads the whole stream through exec:cat before the guest runs. Files lie in the
host's page cache, which is to QEMU's advantage: testudo does not read them.
"""
import argparse
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import facts
import migrate

RANDOM_MIB = 64


class Restored(migrate.Vm):
    """A guest whose memory is a private map of @path: read through /proc."""

    def __init__(self, command, where, path, env):
        super().__init__(command, where, env)
        self.path = os.path.realpath(path)
        self.fd = self.start = None

    def find(self):
        try:
            for line in open(f"/proc/{self.p.pid}/maps"):
                if line.rstrip().endswith(self.path) and " rw-p " in line:
                    self.fd = os.open(f"/proc/{self.p.pid}/mem", os.O_RDONLY)
                    self.start = int(line.split("-")[0], 16)
                    return True
        except OSError:
            pass
        return False

    def beats(self):
        if self.fd is None and not self.find():
            return 0
        raw = os.pread(self.fd, migrate.HEAD.size + 8, self.start + migrate.HEART)
        return struct.unpack_from("<Q", raw, migrate.HEAD.size)[0]

    def end(self):
        super().end()
        if self.fd is not None:
            os.close(self.fd)


def fill(vm, mib):
    block = random.Random(1).randbytes(1 << 20)
    m = vm.memory()
    for i in range(RANDOM_MIB):
        at = migrate.FILL_FROM + (((mib << 20) - migrate.FILL_FROM) // RANDOM_MIB * i & ~4095)
        m[at:at + (1 << 20)] = block


class Testudo(migrate.Testudo):
    def __init__(self, build, work):
        super().__init__(build)
        self.policy = os.path.join(work, "policy.yaml")
        with open(self.policy, "w") as f:
            f.write("version: 1\nincoming-cannot: warn\n")

    def save(self, vm, path):
        subprocess.run([self.binary, "save", os.path.basename(vm.where), path], env=self.env(vm.where), check=True,
                       stdout=subprocess.DEVNULL)

    def restore(self, where, mib, path):
        return Restored([self.binary, "run", "--name", os.path.basename(where), "--serial", "none", "--no-rng",
                         "--policy", self.policy, "--incoming", f"file:{path}"], where, path, self.env(where))


class Qemu(migrate.Qemu):
    def __init__(self, build):
        super().__init__(build, 0)

    def save(self, vm, path):
        monitor = migrate.Qmp(f"{vm.where}.qmp")
        monitor.ask("migrate-set-parameters", max_bandwidth=1 << 40, downtime_limit=1000000)
        # not stopped before: a guest that was would come back stopped
        monitor.ask("migrate", uri=f"exec:cat > {path}")
        while (state := monitor.ask("query-migrate"))["status"] != "completed":
            if state["status"] == "failed":
                sys.exit(f"QEMU: {state}")
            time.sleep(0.01)
        monitor.close()

    def restore(self, where, mib, path):
        return migrate.Vm([*self.command(where, mib, "heartbeat"), "-incoming", f"exec:cat {path}"], where)


def one_restore(contestant, where, mib, path, last):
    begin = time.monotonic_ns()
    vm = contestant.restore(where, mib, path)
    try:
        while vm.beats() <= last:
            if vm.p.poll() is not None or time.monotonic_ns() - begin > 60e9:
                sys.exit(f"the guest does not run: {vm.p.args}\n{open(vm.log.name).read()}")
            time.sleep(0.0002)
        return (time.monotonic_ns() - begin) / 1e6
    finally:
        vm.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--mib", default="128,1024,8192")
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    build = os.path.abspath(options.build)
    facts.need(build, "tests/guest/guest.elf", "tests/guest/first.elf")
    facts.print_facts()
    work = tempfile.mkdtemp(prefix="restore-")
    os.chmod(work, 0o700)
    try:
        contestants = [Testudo(build, work)] + ([] if options.no_peer else [Qemu(build)])
        print("\n| file to running, median ms (min to max) | testudo |" + " QEMU |" * (len(contestants) - 1)
              + "\n|---|---|" + "---|" * (len(contestants) - 1))
        for mib in map(int, options.mib.split(",")):
            files = []
            for n, c in enumerate(contestants):
                path = os.path.join(work, f"file{n}")
                source = c.source(f"{work}/s{n}-{mib}", mib, "heartbeat")
                source.wait_beats()
                fill(source, mib)
                c.save(source, path)
                files.append((c, path, source.beats()))
                source.end()
            figures = [[] for _ in files]
            for run in range(options.runs + 1):
                for n, (c, path, last) in enumerate(files):
                    ms = one_restore(c, f"{work}/r{n}-{mib}-{run}", mib, path, last)
                    if run:
                        figures[n].append(ms)
            cells = [f"{statistics.median(f):.1f} ({min(f):.1f} to {max(f):.1f})" for f in figures]
            print(f"| {mib} MiB | " + " | ".join(cells) + " |")
            for _, path, _ in files:
                os.unlink(path)
    finally:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
