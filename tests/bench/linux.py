"""A real Debian kernel under testudo and under QEMU's microvm, in one emulated host, interleaved.

    python3 tests/bench/linux.py [--build DIR] [--runs N]

Prints: time from exec to Linux's init, and virtio-blk rates by dd on the same raw image, cached by the host.
Both run nested in a host that is itself emulated: the absolute figures mean nothing, the ratios a little.
"""
import argparse
import pathlib
import re
import statistics
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "t2")]
import facts  # noqa: E402  (found through the lines above)
import files  # noqa: E402
from host import EmulatedHost, HostError  # noqa: E402

MARK = "@@@init"
VMMS = ["testudo", "qemu"]
# name, dd's words; every one goes around the guest's page cache, so that each request reaches the device
WORKLOADS = [
    ("read 1 MiB", "if=/dev/vda of=/dev/null bs=1M count=192 iflag=direct", 192),
    ("write 1 MiB", "if=/dev/zero of=/dev/vda bs=1M count=192 oflag=direct", 192),
    ("read 4 KiB", "if=/dev/vda of=/dev/null bs=4k count=3000 iflag=direct", 3000 / 256),
    ("write 4 KiB", "if=/dev/zero of=/dev/vda bs=4k count=3000 oflag=direct", 3000 / 256),
]


def boot_seconds(host, vmm):
    """From exec to the first line of the guest's /run.sh, by the emulated host's clock."""
    host.put(files.cpio({"run.sh": f"echo {MARK} >/dev/console\n".encode()}), "/tmp/mark.cpio")
    host.check("cat /t2/guest/initrd /tmp/mark.cpio >/tmp/mark.initrd")
    command = host.command(initrd="/tmp/mark.initrd", vmm=vmm)
    output = host.check(
        f"read begin idle </proc/uptime\n{command} </dev/null 2>/dev/null | while read -r line; do\n"
        f"case $line in *{MARK}*) read end idle </proc/uptime; echo $begin $end;; esac\ndone", 120)
    begin, end = output.split()
    return float(end) - float(begin)


def disk_rates(host, vmm):
    """{workload: MiB/s} of one boot; each workload is run twice and the better counts."""
    script = "".join(f"for n in 1 2; do read begin idle </proc/uptime; dd {words} 2>/dev/null\n"
                     f"read end idle </proc/uptime; echo workload {name}: $begin $end; done\n"
                     for name, words, _ in WORKLOADS)
    disk = "/tmp/bench.img"
    host.check(f"[ -e {disk} ] || dd if=/dev/urandom of={disk} bs=1M count=192 2>/dev/null", 120)
    output = host.boot(script, vmm=vmm, disks=[disk], timeout=240).output
    sizes = {name: size for name, _, size in WORKLOADS}
    best = {}
    for name, begin, end in re.findall(r"workload (.*?): (\S+) (\S+)", output):
        best[name] = max(best.get(name, 0), sizes[name] / (float(end) - float(begin)))
    assert set(best) == set(sizes), output
    return best


def row(name, by_vmm, better):
    ours, theirs = (statistics.median(by_vmm[vmm]) for vmm in VMMS)
    print(f"| {name} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} | {better} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()

    boots = {vmm: [] for vmm in VMMS}
    rates = {name: {vmm: [] for vmm in VMMS} for name, _, _ in WORKLOADS}
    facts.need(options.build, kvm=False)
    facts.print_facts()
    with tempfile.TemporaryDirectory() as work, \
            EmulatedHost("amd-stock", work, testudo=f"{options.build}/vmm/testudo", with_qemu=True) as host:
        for number in range(options.runs + 1):
            for vmm in VMMS:
                took = boot_seconds(host, vmm)
                if number:  # the first warms the caches
                    boots[vmm].append(took)
        for _ in range(options.runs):
            for vmm in VMMS:
                for name, rate in disk_rates(host, vmm).items():
                    rates[name][vmm].append(rate)
    print("| in the emulated host, median | testudo | QEMU microvm | ratio | better |\n|---|---|---|---|---|")
    row("exec to Linux's init, s", boots, "lower")
    for name, by_vmm in rates.items():
        row(f"virtio-blk {name}, MiB/s", by_vmm, "higher")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (files.FilesError, HostError) as e:
        sys.exit(str(e))
