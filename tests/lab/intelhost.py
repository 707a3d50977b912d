"""Emulated Intel hosts: machines in Bochs, which has VMX and the controls of IA32_SPEC_CTRL. What a test does with one
is what it does with those of tests/t2; see host.py there.

    host = IntelHost("intel-stock", work_dir, testudo="build/vmm/testudo")
"""
import collections
import os
import pathlib
import shutil
import socket
import subprocess

from t2 import T2
import bochs
import files
import host
import later

# What a kind of host is: the CPU; whose kernel, Debian's, the next Debian's or ours; what is for that on its command line.
Kind = collections.namedtuple("Kind", "model kernel append", defaults=[""])
KINDS = {
    "intel-stock": Kind("arrow_lake", "debian"),
    "intel-old": Kind("corei7_icelake_u", "debian"),
    "intel-later": Kind("arrow_lake", "later"),
    # Bochs 3.0 leaves the shadow of SPEC_CTRL as it is when the guest writes the register; so KVM does that for it.
    "intel-patched": Kind("arrow_lake", "patched", "kvm_intel.lab_intercept_spec_ctrl=1"),
}
MODULES = ["ata_piix", "sd_mod", "ext4", "msr", "kvm_intel"]

MIPS = 100
MEM_MIB = 1024
# tsc_early_khz: CPUID tells the frequency of the real part, Bochs counts instructions; time would run in two speeds.
# cryptomgr.notests: tests of ciphers, a fifth of the boot.
# enable_apicv=0: Bochs 3.0 wants the posted-interrupt descriptor on a page boundary.
APPEND = f"console=ttyS0,115200 panic=-1 tsc_early_khz={MIPS}000 cryptomgr.notests kvm_intel.enable_apicv=0"
ACCEPT_S = 20


def patched_kernel():
    """The bzImage of the kernel with the series of kernel/ and what the lab reads; built if need be."""
    given = os.environ.get("LAB_KERNEL")
    if given:
        return pathlib.Path(given)
    build = files.TOP / "kernel" / "build"
    if not build.exists():
        raise files.FilesError(f"{build} is not there, which makes the patched kernel")
    out = files.cache_dir() / "lab-kernel"
    made = subprocess.run([build, "6.1", "--lab", out], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          check=False)
    if made.returncode != 0:
        raise files.FilesError((made.stderr.strip().splitlines() or ["kernel/build failed"])[-1])
    return out / "bzImage"


class IntelHost(host.EmulatedHost):
    """One emulated host of a @kind of KINDS. @disks: raw images for /dev/sda and so on, to carry files from one host
    to the next; @tree: more files for /t2, {path there: path here or bytes}."""

    pace = 20
    up_s = 300

    def _bring_up(self, testudo, disks=(), tree=None):
        kind = KINDS[self.kind]
        self.stock = files.Stock(signed=False)
        kernel, modules = self.stock.vmlinuz, MODULES
        running = self.stock
        if kind.kernel == "later":
            running = files.Stock(signed=False, kernel=later.kernel())
            kernel = running.vmlinuz
        elif kind.kernel == "patched":
            kernel, modules = patched_kernel(), []
        self.work = self.work / self.kind
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        self.log = self.work / "console.log"
        content = {"guest/vmlinuz": self.stock.vmlinuz,
                   "guest/initrd": files.initrd(self.stock, host.GUEST_MODULES, T2 / "guest-init"), **(tree or {})}
        content = host.with_programs([testudo] if testudo else [], content)
        more = {f"t2/{name}": data if isinstance(data, bytes) else pathlib.Path(data).read_bytes()
                for name, data in content.items()}
        initrd = self.work / "initrd"
        initrd.write_bytes(files.initrd(running, modules, T2 / "host-init",
                                        {"main": (T2 / "host-agent").read_bytes(), **more}))
        bochs.make_disc(self.work / "disc.iso", kernel, initrd,
                        f"{APPEND} {kind.append} agent=/dev/ttyS1")
        for disk in disks:
            # Bochs's own mark, which it leaves when it is killed; so are those of earlier runs.
            pathlib.Path(f"{disk}.lock").unlink(missing_ok=True)
        self._start_bochs(kind, disks)

    def _start_bochs(self, kind, disks):
        errors = self.work / "emulator.log"
        with socket.create_server(("localhost", 0)) as server, open(errors, "wb") as stderr:
            config = self.work / "bochsrc"
            config.write_text(bochs.configuration(kind.model, MIPS, MEM_MIB, self.work, self.work / "disc.iso",
                                                  server.getsockname()[1], disks))
            words, env = bochs.command(config)
            self.process = host.start(words, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=env)
            server.settimeout(ACCEPT_S)
            try:
                self.port, _ = server.accept()
            except TimeoutError:
                self.close()
                raise host.HostError(f"Bochs did not start:\n{errors.read_text(errors='replace')[-3000:]}") from None
        self._await_agent(errors)
