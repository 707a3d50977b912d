"""The story that testudo exists for. A guest boots on the older host, takes the short sequence for its own, and goes to
the newer host, where that does not protect it: it arrives with BHI_DIS_S held in hardware. Then back, and it is off.

The hosts are up one after the other, so the guest goes from one to the next in a file, on a disk."""
import contextlib
import re

from background import REFUSED, Guest
from runs import APPEND, BHI, IBRS, expected, msrs, series

# Both hosts can show that; the newer one has no AVX-512.
CPU = "host,-avx512f"
GUEST = """exec >/dev/console 2>&1
/opt/testudo-guest-report
beat=0
while :; do
	beat=$((beat + 1))
	echo "beat $beat: $(cat /sys/devices/system/cpu/vulnerabilities/spectre_v2)"
	sleep 1
done
"""
SHORT_SEQUENCE = "0x1"	# BHB_CLEAR_SEQ_S_USED of MSR_VIRTUAL_MITIGATION_CTRL
OLD, NEW = "intel-old (Ice Lake-L)", "intel-patched (Arrow Lake)"
BAD_INPUT = 3


@contextlib.contextmanager
def carried(host):
    """The disk that goes from host to host, as /carried."""
    host.check(f"hostname {host.kind} && mkdir -p /carried && mount -t ext4 /dev/sda /carried")
    yield
    host.check("umount /carried")


# The older host by itself: stock Debian kernel on a CPU from before BHI_DIS_S, where the short sequence is enough.

def test_older_host(intel_old):
    assert "BHI: SW loop" in intel_old.check("cat /sys/devices/system/cpu/vulnerabilities/spectre_v2")
    here = intel_old.json("testudo host --json")
    assert here["facts"]["vendor"] == "GenuineIntel"
    assert not int(here["facts"]["cpuid-7-2-edx"], 16) & 0x10, "BHI_CTRL"


def test_older_host_holds_nothing(intel_old):
    run = msrs(intel_old, series([1, 0]))
    assert run.seen == expected([1, 0])
    assert run.report["verdict"] == "allow" and not run.held() & BHI
    assert [step["row"] for step in run.vcpu()["steps"] if step["table"] == "bhi"] == [15], "the short loop works"


# AVX-512, which the emulated hosts of tests/t2 have not.

AVX512 = 0xe7	# x87, SSE, AVX, and the three of AVX-512; protection keys where the model has them
LOOKS = 200	# at the registers, between two lines


def looks_on(guest):
    """The guest has looked some times since it came, and nothing was lost; its console."""
    text = guest.console(guest.said("console").count("\n") + 3)
    whole = text[:text.rindex("\n")]
    assert "lost" not in text and whole.endswith(" errors=0"), text
    return text


def test_avx512_goes_along(intel_old):
    """The test guest holds patterns in all that XSAVE has, is saved, restored and moved live."""
    guest = Guest(intel_old, "wide", "-m", "16M", "-k", "/t2/guest/guest.elf", "-p", f"xstate report={LOOKS}")
    said = looks_on(guest)
    assert int(re.search(r"components=(0x\w+)", said)[1], 16) & AVX512 == AVX512
    guest.saved("/tmp/saved-wide")  # not one of its own files, which go
    guest = Guest(intel_old, "wide", "--incoming", "file:/tmp/saved-wide")
    looks_on(guest)
    guest = moved_live(guest)
    looks_on(guest)
    guest.tell("stop", "--force")
    guest.end()


def debian(host, name):
    """An unmodified Debian guest that reports what its kernel does, and then says so every second."""
    host.put(GUEST.encode(), "/tmp/run.sh")
    host.check("""mkdir -p /tmp/more/opt && cd /tmp/more
cp /t2/guest/guest-report opt/testudo-guest-report && mv /tmp/run.sh .
find run.sh opt | cpio -o -H newc 2>/dev/null | cat /t2/guest/initrd - >/tmp/initrd""")
    return Guest(host, name, "--cpu", CPU, "-m", "128M", "-k", "/t2/guest/vmlinuz", "-i", "/tmp/initrd",
                 "-p", f"panic=-1 {APPEND}")


def short_sequence_reported(guest):
    """Number of the heartbeat at which the guest has said so."""
    number, text = guest.beat()
    assert "BHI: SW loop" in text
    vcpu = guest.report()["vcpus"][0]
    assert vcpu["report"]["ctrl"] == SHORT_SEQUENCE, vcpu
    return number


def refused_where_nothing_can_be_held(guest):
    """A destination whose KVM takes all and holds nothing, where policy says strict: the guest stays."""
    host = guest.host
    host.put(b"version: 1\nstrict: on\n", "/tmp/strict.yaml")
    there = Guest(host, "there", "--incoming", "unix:/tmp/mig", "--policy", "/tmp/strict.yaml",
                  env="KVM_SHIM=drops LD_PRELOAD=/t2/lib/kvm_shim.so")
    there.listens("/tmp/mig")
    why = guest.tell("migrate", "unix:/tmp/mig", status=REFUSED)
    assert "BHI_DIS_S" in why and "goes on at the source" in why, why
    assert there.end() == REFUSED and "refused by policy" in there.said("log")
    guest.beat()


def moved_live(guest):
    """The guest, in another process of its host; it ran all the while."""
    there = Guest(guest.host, "live", "--incoming", "unix:/tmp/live.mig")
    there.listens("/tmp/live.mig")
    # An emulated host needs its time.
    guest.tell("migrate", "unix:/tmp/live.mig", "--downtime-ms", "1000")
    assert guest.end() == 0
    return there


def test_there_and_back(lab):
    old = lab("intel-old")
    with carried(old):
        guest = debian(old, "web")
        guest.until("grep -q '^beat ' web.console", "the guest's boot")
        print(guest.said("console"))
        assert "report: BHB_CLEAR_SEQ_S_USED" in guest.said("console")
        at_first = short_sequence_reported(guest)
        assert guest.held() == 0
        guest.saved("/carried/web.saved")
        old.check("testudo host --json >/carried/facts.json")

        everything = Guest(old, "all", "-m", "16M", "-k", "/t2/guest/guest.elf",
                           "-p", "msrs cpus=1 do=0.spin.1000000.1b")
        everything.until("[ -e all.json ]", "its start")
        everything.saved("/carried/all.saved")

    new = lab("intel-patched")
    with carried(new):
        explain = f"testudo policy explain --from /carried/facts.json --cpu {CPU} --guest reported=short --json"
        answer = new.json(explain)
        assert answer["decision"]["verdict"] == "allow, with held bits"
        assert "BHI_DIS_S" in answer["decision"]["at-1"]

        everything = Guest(new, "all", "--incoming", "file:/carried/all.saved")
        assert everything.end() == BAD_INPUT and "avx512f" in everything.said("log")

        guest = Guest(new, "web", "--incoming", "file:/carried/web.saved")
        then = short_sequence_reported(guest)
        assert at_first < then
        assert guest.held() == BHI and guest.effective() == IBRS | BHI
        seen = guest.hardware()
        assert seen["exits"] and seen["all"] & BHI, "from its first instruction"
        assert f"BHI_DIS_S was not held on {OLD}, is held on {NEW}: guest reported" in guest.said("log")
        refused_where_nothing_can_be_held(guest)
        assert guest.hardware()["all"] & BHI

        guest = moved_live(guest)
        assert then < short_sequence_reported(guest)
        assert guest.held() == BHI and guest.effective() == IBRS | BHI
        assert guest.hardware()["all"] & BHI
        guest.saved("/carried/web.again")

    old = lab("intel-old")
    with carried(old):
        guest = Guest(old, "web", "--incoming", "file:/carried/web.again")
        assert then < short_sequence_reported(guest)
        assert guest.held() == 0 and guest.effective() == IBRS
        assert f"BHI_DIS_S was held on {NEW}, is not held on {OLD}: guest reported" in guest.said("log")
        guest.tell("stop", "--force")
        guest.end()
