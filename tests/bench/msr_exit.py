"""What an access of the guest to IA32_SPEC_CTRL costs under testudo's msr-filter back end.

    python3 tests/bench/msr_exit.py [--build DIR] [--runs N]

Against the shortest KVM_RUN loop with the same filter (msr_exit.c) and the same guest code (msrloop.S), interleaved
run by run. Both run under tests/shim as a stock KVM on VMX, since a KVM that keeps 0x48 is not everywhere; its share
is small, and the same on both sides. Prints minima and medians in TSC ticks an access, and the ratio; the goal is 1.05.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import facts  # noqa: E402  (found through the line above)

ROUNDS = 20000
HOST = {"vendor": "GenuineIntel", "hypervisor": False, "family": 6, "model": 0x8f, "stepping": 8,
        "cpuid-7-0-ecx": "0", "cpuid-7-0-edx": "0xbc000400", "cpuid-7-2-edx": "0x1f",
        "kvm-cpuid-7-0-edx": "0xac000400", "kvm-cpuid-7-2-edx": "0", "kvm-arch-capabilities": "0x800eb"}


def ticks(command, env):
    """(read, write) of one run, TSC ticks an access."""
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    words = run.stdout.split()
    if run.returncode or len(words) != 2:
        sys.exit(f"{command[0]}: exit code {run.returncode}: {run.stdout}{run.stderr}")
    return [int(word, 16) / ROUNDS for word in words]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build", type=pathlib.Path)
    parser.add_argument("--runs", default=7, type=int)
    args = parser.parse_args()
    build = args.build.resolve()
    payload = build / "tests/guest/msrloop.elf"
    env = dict(os.environ, LD_PRELOAD=str(build / "tests/shim/libkvm_shim.so"), KVM_SHIM="filter", KVM_SHIM_INIT="0",
               KVM_SHIM_ARCH_CAP="0x800eb")
    facts.need(build, "tests/bench/msr_exit", "tests/guest/msrloop.elf", "tests/shim/libkvm_shim.so")
    facts.print_facts()
    with tempfile.TemporaryDirectory() as work:
        host = pathlib.Path(work) / "host.json"
        host.write_text(json.dumps({"testudo-host-facts": 1, "facts": HOST,
                                    "backend": {"name": "none", "can-hold": []}}))
        commands = {
            "bare loop": [str(build / "tests/bench/msr_exit"), str(payload)],
            "testudo": [str(build / "vmm/testudo"), "run", "--host-facts", str(host), "-k", str(payload)],
        }
        found = {name: [] for name in commands}
        for _ in range(args.runs):
            for name, command in commands.items():
                found[name].append(ticks(command, env))
    print("\n| access | bare loop min / median | testudo min / median | ratio of minima | of medians |")
    print("|---|---|---|---|---|")
    for i, access in enumerate(("RDMSR 0x48", "WRMSR 0x48")):
        bare, ours = ([run[i] for run in found[name]] for name in ("bare loop", "testudo"))
        print(f"| {access} | {min(bare):.0f} / {statistics.median(bare):.0f} "
              f"| {min(ours):.0f} / {statistics.median(ours):.0f} "
              f"| {min(ours) / min(bare):.3f} | {statistics.median(ours) / statistics.median(bare):.3f} |")


if __name__ == "__main__":
    main()
