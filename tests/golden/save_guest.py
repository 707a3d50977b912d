"""Saves a small guest with the testudo of a build folder, for tests/e2e/test_golden.py to restore for ever.

    save_guest.py FILE.xz          e.g. tests/data/streams/0.1.0-guest.xz; TESTUDO_BUILD as for tests/e2e

On this machine's KVM, or without one on that of an emulated machine. The guest is on the AMD host that tests/shim lays
over any machine, so that it can be restored on any.
"""
import lzma
import os
import pathlib
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(TOP / "tests" / "e2e"), str(TOP / "tests" / "t2")]

import harness
import moving
import saving

MEM_MIB, CPUS = 16, 2


def save(path):
    env = harness.overlay(harness.OVERLAYS["amd"])
    with tempfile.TemporaryDirectory(prefix="testudo-") as work:
        disk, policy, snapshot = (pathlib.Path(work, name) for name in ("disk.img", "policy.yaml", "snapshot"))
        harness.make_disk(disk)
        policy.write_text(moving.POLICY)
        with moving.Guest(work, "golden", "--policy", policy, "-d", f"{disk},serial=golden", params=f"heartbeat cpus={CPUS}",
                          mem=MEM_MIB, cpus=CPUS, env=env) as g:
            g.wait_beats()
            saving.saved(g, snapshot)
        path.write_bytes(lzma.compress(snapshot.read_bytes(), preset=9 | lzma.PRESET_EXTREME))


def save_emulated(path):
    import host  # its needs are those of tests/t2
    import kvm

    there = pathlib.Path("/tmp/guest.xz")
    with tempfile.TemporaryDirectory(prefix="testudo-") as work, kvm.Machine(work, harness.BUILD) as machine:
        status, output = machine.debian(f"TESTUDO_BUILD={harness.BUILD} python3 {pathlib.Path(__file__).resolve()} {there}", 600)
        if status != 0:
            raise host.HostError(output)
        path.write_bytes(machine.get(f"/scratch{there}"))


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    path = pathlib.Path(sys.argv[1])
    (save_emulated if harness.why_no_kvm() else save)(path)
    print(f"{path}: {os.stat(path).st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
