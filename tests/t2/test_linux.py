"""An unmodified Debian kernel under testudo, in an emulated host: CPUs, clock, disks, entropy, power, console.

A boot takes seconds, so one boot answers several tests: its guest prints facts, a fixture keeps them.
"""
import re

import pytest

MIB = 1 << 20

# Shell: prints a command's output as a fact; some files of sysfs end without a new line.
FACT = 'fact() { echo "== $1"; shift; "$@"; echo; }\n'


def facts(output):
    """{name: text} of output in which a line "== name" opens each fact."""
    parts = re.split(r"^== (\S+)\n", output, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (text.rstrip("\n") for text in parts[2::2])))


def make_image(host, name, mib):
    """An image of random bytes in the host, on a file system that knows holes and O_DIRECT."""
    path = f"/scratch/{name}"
    host.check(f"dd if=/dev/urandom of={path} bs=1M count={mib} 2>/dev/null", 60)
    return path


def sha256(host, path, start_mib, count_mib):
    """Of @count_mib MiB of an image, as the host sees them."""
    return host.check(f"dd if={path} bs=1M skip={start_mib} count={count_mib} 2>/dev/null | sha256sum").split()[0]


def sum_in_guest(disk, skip, count):
    return f"dd if=/dev/{disk} bs=1M skip={skip} count={count} iflag=fullblock 2>/dev/null | sha256sum"


# The machine as the kernel sees it

FACTS = FACT + """
fact release uname -r
fact cmdline cat /proc/cmdline
fact nproc nproc
fact online cat /sys/devices/system/cpu/online
fact cpuinfo grep -E '^(processor|siblings|cpu cores|apicid)' /proc/cpuinfo
fact ran sh -c 'for cpu in $(seq 0 $(($(nproc) - 1))); do taskset -c $cpu echo $cpu; done'
fact timer grep LOC: /proc/interrupts
fact memory grep MemTotal /proc/meminfo
fact clock cat /sys/devices/system/clocksource/clocksource0/current_clocksource
fact complaints sh -c 'dmesg | grep -E "ACPI (BIOS )?(Error|Warning)|Firmware Bug|rtc_cmos.*broken|invalid checksum"'
fact rng cat /sys/class/misc/hw_random/rng_current
fact entropy sh -c 'for i in 1 2; do dd if=/dev/hwrng bs=64 count=1 iflag=fullblock 2>/dev/null | hexdump -ve "1/1 \\"%02x\\""; echo; done'
exit 0
"""


class Machine:
    """What a guest of @cpus CPUs printed about itself."""

    def __init__(self, host, cpus):
        self.cpus = cpus
        self.mem_mib = 256
        self.release = host.stock.release
        self.boot = host.boot(FACTS, cpus=cpus, mem=f"{self.mem_mib}M", append="quiet given.by=user")
        self.facts = facts(self.boot.output)

    def __getitem__(self, name):
        return self.facts[name]


@pytest.fixture(scope="module", params=[1, 4], ids=["1cpu", "4cpus"])
def machine(amd_stock, request):
    return Machine(amd_stock, request.param)


def test_power_off_ends_with_0(machine):
    assert machine.boot.status == 0, machine.boot


def test_kernel_is_debians_own(machine):
    assert machine["release"] == machine.release


def test_command_line(machine):
    words = machine["cmdline"].split()
    assert "console=ttyS0" in words and "given.by=user" in words


def test_all_cpus_are_online(machine):
    assert machine["nproc"] == str(machine.cpus)
    assert machine["online"] == ("0" if machine.cpus == 1 else f"0-{machine.cpus - 1}")


def test_cpu_topology(machine):
    def values(name):
        return [int(value) for value in re.findall(rf"^{name}\s*: (\d+)$", machine["cpuinfo"], re.MULTILINE)]

    assert values("processor") == list(range(machine.cpus))
    assert len(set(values("apicid"))) == machine.cpus
    assert len(set(values("siblings"))) == 1 and len(set(values("cpu cores"))) == 1
    siblings, cores = values("siblings")[0], values("cpu cores")[0]
    assert 1 <= cores <= siblings <= machine.cpus
    assert machine.cpus % siblings == 0 and siblings % cores == 0


def test_every_cpu_runs_and_has_a_timer(machine):
    assert machine["ran"].split() == [str(cpu) for cpu in range(machine.cpus)]
    ticks = [int(word) for word in machine["timer"].split()[1:] if word.isdigit()]
    assert len(ticks) == machine.cpus and all(ticks), machine["timer"]


def test_memory_size(machine):
    total_kib = int(machine["memory"].split()[1])
    assert (machine.mem_mib - 72) * 1024 < total_kib < machine.mem_mib * 1024


def test_clock_is_kvm_clock(machine):
    assert machine["clock"] == "kvm-clock"


def test_kernel_finds_no_fault_in_tables(machine):
    assert machine["complaints"] == ""


def test_entropy(machine):
    assert machine["rng"].startswith("virtio_rng")
    first, second = machine["entropy"].split()
    assert len(first) == len(second) == 128 and first != second


def test_memory_above_4g(amd_stock):
    boot = amd_stock.boot("grep MemTotal /proc/meminfo; grep -c 'System RAM' /proc/iomem", mem="5G", append="quiet")
    assert 4.7 * MIB < int(boot.output.split()[1]) < 5 * MIB
    assert boot.status == 0


def test_uncompressed_kernel(amd_stock):
    """vmlinux enters by PVH, not by the 64-bit boot protocol."""
    boot = amd_stock.boot("uname -r; nproc; cat /proc/cmdline", kernel="/t2/guest/vmlinux", cpus=2,
                          append="quiet given.by=user")
    release, cpus, cmdline = boot.output.splitlines()
    assert (release, cpus, boot.status) == (amd_stock.stock.release, "2", 0)
    assert "given.by=user" in cmdline.split()


def test_kernel_messages_reach_the_console(amd_stock):
    boot = amd_stock.boot("")
    assert "Linux version " + amd_stock.stock.release in boot.console
    assert "Run /init as init process" in boot.console
    assert boot.status == 0


# Disks

@pytest.fixture(scope="module")
def disks(amd_stock):
    """One boot with three disks; the images' checksums before it, what the guest saw, the images afterwards."""
    rw, ro, direct = (make_image(amd_stock, name, mib) for name, mib in (("rw", 16), ("ro", 8), ("direct", 8)))
    amd_stock.check(f"dd if=/dev/zero bs=512 count=1 >>{ro} 2>/dev/null")
    before = {path: amd_stock.check(f"sha256sum <{path}").split()[0] for path in (rw, ro, direct)}
    kept = sha256(amd_stock, rw, 0, 4), sha256(amd_stock, rw, 8, 8)
    boot = amd_stock.boot(FACT + f"""
for disk in vda vdb vdc; do
	fact $disk.size cat /sys/block/$disk/size
	fact $disk.serial cat /sys/block/$disk/serial
	fact $disk.ro cat /sys/block/$disk/ro
	fact $disk.sum sha256sum /dev/$disk
done
fact ro.write sh -c 'dd if=/dev/zero of=/dev/vdb bs=4k count=1 conv=fsync 2>&1 >/dev/null; echo status $?'
dd if=/dev/urandom of=/tmp/new bs=1M count=4 2>/dev/null
# One writer a CPU, each its own MiB.
for mib in 0 1 2 3; do
	taskset -c $mib dd if=/tmp/new of=/dev/vda bs=4k skip=$((mib * 256)) seek=$(((mib + 4) * 256)) count=256 \\
		conv=notrunc,fsync 2>/dev/null &
done
wait
fact rw.written sha256sum /tmp/new
dd if=/tmp/new of=/dev/vdc bs=64k conv=notrunc,fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
fact rw.read sh -c '{sum_in_guest("vda", 4, 4)}'
fact direct.read sh -c '{sum_in_guest("vdc", 0, 4)}'
exit 0
""", cpus=4, mem="256M", disks=[f"{rw},serial=tortoise", f"{ro},ro", f"{direct},direct,serial=01234567890123456789"],
                          append="quiet")
    seen = facts(boot.output)
    seen["before"], seen["kept"], seen["boot"] = before, kept, boot
    seen["after"] = {"kept": (sha256(amd_stock, rw, 0, 4), sha256(amd_stock, rw, 8, 8)),
                     "rw": sha256(amd_stock, rw, 4, 4), "direct": sha256(amd_stock, direct, 0, 4),
                     "ro": amd_stock.check(f"sha256sum <{ro}").split()[0]}
    amd_stock.check(f"rm {rw} {ro} {direct}")
    return seen


def test_disk_sizes(disks):
    assert [int(disks[f"{disk}.size"]) * 512 for disk in ("vda", "vdb", "vdc")] == [16 * MIB, 8 * MIB + 512, 8 * MIB]


def test_disk_serials(disks):
    assert disks["vda.serial"] == "tortoise"
    assert disks["vdc.serial"] == "01234567890123456789"


def test_disk_content_reaches_the_guest(disks):
    assert [disks[f"{disk}.sum"].split()[0] for disk in ("vda", "vdb", "vdc")] == list(disks["before"].values())


def test_read_only_disk(disks):
    assert [disks[f"{disk}.ro"] for disk in ("vda", "vdb", "vdc")] == ["0", "1", "0"]
    assert not disks["ro.write"].endswith("status 0"), disks["ro.write"]
    assert disks["after"]["ro"] == list(disks["before"].values())[1]


def test_disk_writes_reach_the_image(disks):
    written = disks["rw.written"].split()[0]
    assert disks["after"]["rw"] == written
    assert disks["rw.read"].split()[0] == written
    assert disks["after"]["kept"] == disks["kept"]


def test_direct_disk(disks):
    written = disks["rw.written"].split()[0]
    assert disks["after"]["direct"] == written
    assert disks["direct.read"].split()[0] == written


@pytest.fixture(scope="module")
def holes(amd_stock):
    """A boot in which the guest discards, and writes zeroes to, parts of a disk of 16 MiB."""
    path = make_image(amd_stock, "holes", 16)
    used = f"sync; du -k {path} | cut -f1"
    before = [sha256(amd_stock, path, mib, 4) for mib in (0, 4, 8, 12)]
    used_before = int(amd_stock.check(used))
    boot = amd_stock.boot("""
set -e
/opt/blkdiscard -o 4M -l 4M /dev/vda
/opt/blkdiscard -z -o 12M -l 4M /dev/vda
cat /sys/block/vda/queue/discard_max_bytes /sys/block/vda/queue/write_zeroes_max_bytes
""", disks=[path], append="quiet", programs=["blkdiscard"])
    result = {"boot": boot, "before": before, "limits": [int(word) for word in boot.output.split()],
              "after": [sha256(amd_stock, path, mib, 4) for mib in (0, 4, 8, 12)],
              "zero": amd_stock.check("dd if=/dev/zero bs=1M count=4 2>/dev/null | sha256sum").split()[0],
              "freed_kib": used_before - int(amd_stock.check(used))}
    amd_stock.check(f"rm {path}")
    return result


def test_discard_frees_space(holes):
    assert holes["limits"][0] > 0
    assert holes["freed_kib"] >= 4 * 1024
    assert (holes["after"][0], holes["after"][2]) == (holes["before"][0], holes["before"][2])


def test_write_zeroes(holes):
    assert holes["limits"][1] > 0
    assert holes["after"][3] == holes["zero"]


# Power

REBOOT = """
mkdir -p /fs
mount -t ext4 /dev/vda /fs || exit 1
if [ -e /fs/data ]; then
	sha256sum -c /fs/sum || exit 1
	echo "second boot"
else
	dd if=/dev/urandom of=/fs/data bs=1M count=5 2>/dev/null
	sha256sum /fs/data >/fs/sum
	echo "reboot -f" >/then
	echo "first boot"
fi
umount /fs
"""


@pytest.fixture(scope="module")
def rebooted(amd_stock):
    amd_stock.check("truncate -s 32M /scratch/fs && /t2/bin/mke2fs -q -t ext4 /scratch/fs")
    boot = amd_stock.boot(REBOOT, disks=["/scratch/fs"], append="quiet", timeout=90)
    yield boot
    amd_stock.check("rm /scratch/fs")


def test_reboot_starts_again(rebooted):
    assert [output.splitlines()[-1] for _, output in rebooted.scripts] == ["first boot", "second boot"], rebooted
    assert rebooted.status == 0


def test_file_system_survives_reboot(rebooted, amd_stock):
    assert "/fs/data: OK" in rebooted.output
    status, output = amd_stock.run("/t2/bin/e2fsck -fn /scratch/fs")
    assert status == 0, output


def test_no_reboot_ends_with_32(amd_stock):
    boot = amd_stock.boot("echo 'reboot -f' >/then", append="quiet", args=["--no-reboot"])
    assert boot.output == ""
    assert boot.status == 32, boot


def test_panic_ends_with_34(amd_stock):
    boot = amd_stock.boot("echo c >/proc/sysrq-trigger", append="quiet")
    assert "Kernel panic - not syncing: sysrq triggered crash" in boot.console
    assert boot.scripts == []
    assert boot.status == 34, boot


# Console

def test_typing_on_the_console(amd_stock):
    boot = amd_stock.boot("""
echo "what is it?" >/dev/console
read -r line
echo "it is a $line"
""", typing=[("what is it", "slow tortoise")], append="quiet")
    assert boot.output == "it is a slow tortoise\n"
    assert "slow tortoise" in boot.console, "the terminal did not echo"
    assert boot.status == 0
