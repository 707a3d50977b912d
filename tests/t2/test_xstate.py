"""Extended state (AVX, protection keys: all that the emulated CPU has) in an unmodified Debian guest: a program in it
holds patterns in the registers, in more threads than CPUs, while its machine is built anew, saved into a file and restored
from it, and moved. Between two hosts: test_migration.py."""
import json

import pytest

import files
from test_migration import HOST, MAC, NETWORK, Traveller, check_kept, complaints, guest_files, network, pytestmark  # noqa: F401
from test_linux import FACT

THREADS = 4

SCRIPT = FACT + NETWORK + f"""
/opt/xstate {THREADS} >/tmp/xstate 2>&1 &
xstate=$!
until [ -s /tmp/xstate ]; do sleep 0.1; done
fact said /opt/testudo-guest-report
echo "now it moves" >/dev/kmsg
while sleep 0.2; do echo "@@@beat" >/dev/console; done &
beats=$!
fact asked nc -l -p 5001
kill $beats $xstate
wait $beats; wait $xstate
fact status echo $?
fact xstate cat /tmp/xstate
fact flags grep -m 1 ^flags /proc/cpuinfo
fact dmesg dmesg
exit 0
"""

# A KVM that freezes what is held when the VM is made (tests/shim), on what is taken for a Sapphire Rapids: for a guest that
# reports retpolines later, the machine is built anew. The shim shows SPEC_CTRL, with which a guest writes an MSR that the
# emulated CPU has not.
POLICY = b"version: 1\nhold-unaware: off\nfrozen-mask: rebuild\n"
SHIM = ("LD_PRELOAD=/tmp/move/kvm_shim.so KVM_SHIM=rfc KVM_SHIM_ARCH_CAP={kvm-arch-capabilities} "
        "KVM_SHIM_7_2_EDX={kvm-cpuid-7-2-edx}")


def alive(guest):
    """The guest, and so the program in it, has run for a while since it came."""
    guest.wait(f"[ $(grep -c @@@beat /tmp/move/{guest.name}.console) -ge 3 ]", 60)


@pytest.fixture(scope="module")
def held(amd_stock, guest_report, xstate, kvm_shim):
    host = json.loads((files.TOP / "tests/data/hosts/sapphire-rapids.json").read_bytes())
    with network(amd_stock, HOST):
        for name, data in (("facts", json.dumps(host).encode()), ("policy", POLICY), ("kvm_shim.so", kvm_shim)):
            amd_stock.put(data, f"/tmp/move/{name}")
        guest = Traveller(amd_stock, SCRIPT, f"-n tap=TAP,mac={MAC} --host-facts /tmp/move/facts --policy /tmp/move/policy",
                          "--cpu host,-spec_ctrl", append="spectre_v2=retpoline spectre_bhi=off",
                          env=SHIM.format(**host["facts"]),
                          more=guest_files(guest_report, xstate))
        guest.wait("grep -qs 'built anew' /tmp/move/m0.log", 150)
        alive(guest)
        guest.through_file("/scratch/saved")
        alive(guest)
        for uri, options in (("unix:/tmp/move/copied", []), ("unix:/tmp/move/handed", ["--local"])):
            guest.move(uri, options)
            alive(guest)
        logs = amd_stock.check("cd /tmp/move; cat m?.log")
        last = guest.end()
        amd_stock.check("rm /scratch/saved")
        return {"last": last, "logs": logs}


def test_guest_uses_xsave(held):
    assert {"xsave", "avx2", "pku", "ospke"} <= set(held["last"]["flags"].split())


def test_state_is_kept(held):
    check_kept(held["last"], THREADS)
    assert held["last"]["status"] == "0"


def test_machine_was_built_anew(held):
    assert held["logs"].count("built anew") == 1, held["logs"]


def test_kernel_has_nothing_to_say(held):
    assert complaints(held["last"]["dmesg"]) == [], held["last"]["dmesg"]
