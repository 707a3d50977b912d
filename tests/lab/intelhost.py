"""Emulated Intel hosts: machines in Bochs, which has VMX and the controls of IA32_SPEC_CTRL. What a test does with one
is what it does with those of tests/t2; see host.py there.

    host = IntelHost("intel-stock", work_dir, testudo="build/vmm/testudo")

Run as a program it is the last step of tools/lab.
"""
import argparse
import collections
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

from t2 import T2
import bochs
import files
import host
import later
import shell

# What a kind of host is: the CPU; whose kernel, Debian's, the next Debian's, the newest in its backports, or the
# one of SERIES; bits that IA32_ARCH_CAPABILITIES has beside Bochs's own; the number of CPUs.
Kind = collections.namedtuple("Kind", "model kernel arch_capabilities cpus", defaults=[0, 1])
RRSBA = 1 << 19  # without it, RRSBA_DIS_S is not held
KINDS = {
    "intel-stock": Kind("arrow_lake", "debian", RRSBA),
    "intel-old": Kind("corei7_icelake_u", "debian"),
    "intel-later": Kind("arrow_lake", "later", RRSBA),
    "intel-newest": Kind("arrow_lake", "newest", RRSBA),
    "intel-newest-patched": Kind("arrow_lake", "7.3", RRSBA),
    "intel-patched": Kind("arrow_lake", "6.1", RRSBA),
    "intel-renumbered": Kind("arrow_lake", "6.12"),
    "intel-two": Kind("arrow_lake", "6.1", RRSBA, 2),
}
BUILD = pathlib.Path(os.environ.get("TESTUDO_BUILD", files.TOP / "build"))
DEBIANS = {"later": later.SUITE, "newest": later.SUITE + later.BACKPORTS}
SERIES = {"6.1": "bookworm", "6.12": "trixie", "7.3": DEBIANS["newest"]}  # of kernel/, for the KVM of that Debian's kernel
MODULES = ["ata_piix", "sd_mod", "ext4", "msr", "kvm_intel"]

MIPS = 100
MEM_MIB = 1024
# tsc_early_khz: CPUID tells the frequency of the real part, Bochs counts instructions; time would run in two speeds.
# cryptomgr.notests: tests of ciphers, a fifth of the boot.
# loglevel=5: each byte of the console is waited for; warnings stay.
# enable_apicv=0: Bochs 3.0 wants the posted-interrupt descriptor on a page boundary.
APPEND = f"console=ttyS0,115200 panic=-1 tsc_early_khz={MIPS}000 cryptomgr.notests loglevel=5 kvm_intel.enable_apicv=0"
# What is forced for a vCPU is to be testudo's doing, so KVM keeps the virtual MSRs to itself.
PATCHED = "kvm_intel.lab_no_virtual_msrs=1"
ACCEPT_S = 20
HUGE = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"


def patched(version):
    """That Debian's kernel whose KVM has the series of kernel/ and what the lab reads; built if need be."""
    kernel = later.kernel(SERIES[version])
    release = next(kernel.glob("boot/vmlinuz-*")).name.removeprefix("vmlinuz-")
    out = files.cache_dir() / f"lab-kvm-{version}"
    made = subprocess.run([files.TOP / "kernel" / "build", version, "--lab", release, out], stdin=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, check=False)
    if made.returncode != 0:
        raise files.FilesError((made.stderr.strip().splitlines() or ["kernel/build failed"])[-1])
    return files.Stock(signed=False, kernel=kernel, modules={"kvm": out / "kvm.ko", "kvm_intel": out / "kvm-intel.ko"})


class IntelHost(host.EmulatedHost):
    """One emulated host of a @kind of KINDS. @disks: raw images for /dev/sda and so on, to carry files from one host
    to the next; @tree: more files for /t2, {path there: path here or bytes}."""

    pace = 20
    patience = 1  # by the host's clock, which counts instructions
    up_s = 300

    def _bring_up(self, testudo, disks=(), tree=None):
        kind = KINDS[self.kind]
        self.stock = running = files.Stock(signed=False)
        append = APPEND
        if kind.kernel in DEBIANS:
            running = files.Stock(signed=False, kernel=later.kernel(DEBIANS[kind.kernel]))
        elif kind.kernel in SERIES:
            running, append = patched(kind.kernel), f"{APPEND} {PATCHED}"
        self.work = self.work / self.kind
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.log = self.work / "console.log"
        content = {"guest/vmlinuz": self.stock.vmlinuz,
                   "guest/initrd": files.initrd(self.stock, host.GUEST_MODULES, T2 / "guest-init"),
                   "guest/initrd-kvm": files.initrd(self.stock, [*host.GUEST_MODULES, "kvm_intel"], T2 / "guest-init"),
                   **(tree or {})}
        content = host.with_programs([testudo] if testudo else [], content)
        more = {f"t2/{name}": data if isinstance(data, bytes) else pathlib.Path(data).read_bytes()
                for name, data in content.items()}
        initrd = self.work / "initrd"
        initrd.write_bytes(files.initrd(running, MODULES, T2 / "host-init",
                                        {"main": (T2 / "host-agent").read_bytes(), **more}))
        bochs.make_disc(self.work / "disc.iso", running.vmlinuz, initrd, f"{append} agent=/dev/ttyS1")
        for disk in disks:
            # Bochs's own mark, which it leaves when it is killed; so are those of earlier runs.
            pathlib.Path(f"{disk}.lock").unlink(missing_ok=True)
        self._start_bochs(kind, disks)

    def _start_bochs(self, kind, disks):
        errors = self.work / "emulator.log"
        with socket.create_server(("localhost", 0)) as server, open(errors, "wb") as stderr:
            config = self.work / "bochsrc"
            config.write_text(bochs.configuration(kind.model, kind.cpus, MIPS, MEM_MIB, self.work, self.work / "disc.iso",
                                                  server.getsockname()[1], disks))
            words, env = bochs.command(config, kind.arch_capabilities)
            self.process = host.start(words, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=env)
            server.settimeout(ACCEPT_S)
            try:
                self.port, _ = server.accept()
            except TimeoutError:
                self.close()
                raise host.HostError(f"Bochs did not start:\n{errors.read_text(errors='replace')[-3000:]}") from None
        self._await_agent(errors)
        # A guest's memory in pieces of 2 MiB: each time KVM has to provide one, the host works for a fifth of a
        # millisecond.
        self.check(f"echo advise >{HUGE}")


def built(build):
    """testudo, and what /t2 has of the folder @build: {path there: path here}"""
    programs = {"guest/guest.elf": "tests/guest/guest.elf", "bin/abi": "tests/lab/abi",
                "guest/l2": "tests/lab/l2", "guest/guest-report": "tools/guest-report/testudo-guest-report",
                "lib/kvm_shim.so": "tests/shim/libkvm_shim.so"}
    tree = {name: build / path for name, path in programs.items()}
    testudo = pathlib.Path(os.environ.get("TESTUDO", build / "vmm" / "testudo"))
    for path in (testudo, *tree.values()):
        assert path.exists(), f"{path} is not built; run tools/test or 'ninja -C {build}'"
    return testudo, tree


def with_build(kind, work, build, disks=()):
    """A host with what was built in the folder @build: testudo, and in /t2 the test guest, the program that reports in
    a guest, and the test of the ABI."""
    testudo, tree = built(build)
    return IntelHost(kind, work, testudo=testudo, disks=disks, tree=tree)


def for_a_person(kind, work, build):
    """A host of either vendor with all that shell.py speaks of."""
    testudo, tree = built(build)
    tree[shell.DEMO] = shell.demo_initrd(files.Stock())
    if kind in host.KINDS:
        return host.EmulatedHost(kind, work, testudo=testudo, tree=tree, terminal=True)
    return IntelHost(kind, work, testudo=testudo, tree=tree)


def prepare():
    """Fills the cache with all that the hosts are made of."""
    files.Stock()
    bochs.program()
    bochs.firmware()
    for suite in DEBIANS.values():
        later.kernel(suite)
    for kind in KINDS.values():
        if kind.kernel in SERIES:
            patched(kind.kernel)


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("prepare")
    verbs.add_parser("kinds")
    sh = verbs.add_parser("sh")
    sh.add_argument("kind", choices=[*KINDS, *host.KINDS])
    sh.add_argument("command", nargs="?")
    args = parser.parse_args()
    try:
        if args.verb == "kinds":
            print(*KINDS, *host.KINDS, sep="\n")
            return 0
        if args.verb == "prepare":
            prepare()
            return 0
        with tempfile.TemporaryDirectory(prefix="testudo-") as work, \
                for_a_person(args.kind, work, BUILD) as machine:
            if args.command is None and os.isatty(0) and os.isatty(1):
                return shell.converse(machine)
            status, output = machine.run(sys.stdin.read() if args.command is None else args.command, 600)
            print(output, end="")
            return status
    except (files.FilesError, host.HostError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
