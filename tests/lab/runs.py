"""Runs of the test guest in an emulated host, and what is asked of their reports."""
import dataclasses
import json
import re
import shlex

# Bits of IA32_SPEC_CTRL: SDM vol.4 table 2-2
IBRS, STIBP, SSBD, RRSBA, BHI = 1, 2, 4, 0x40, 0x400
NUMBER = {"IBRS": IBRS, "STIBP": STIBP, "SSBD": SSBD, "RRSBA_DIS_S": RRSBA, "BHI_DIS_S": BHI}
MITIGATION_CTRL = "50000002"
SPECTRE_V2 = "/sys/devices/system/cpu/vulnerabilities/spectre_v2"
APPEND = "quiet cryptomgr.notests"  # of Debian guests; ciphers tested: a third of the boot

TIMEOUT_S = 300	# a machine with other work takes its time

# A CPU as before BHI_CTRL; the host's otherwise.
HIDDEN = ["--cpu", "host,-bhi_ctrl"]


@dataclasses.dataclass
class Run:
    """One run of the guest's command msrs."""
    status: int
    output: str
    seen: list		# what each access to an MSR saw: a number, or None for #GP
    report: dict

    def vcpu(self, number=0):
        return self.report["vcpus"][number]

    def held(self, number=0):
        return int(self.vcpu(number)["held"]["value"], 16)

    def effective(self, number=0):
        return int(self.vcpu(number)["effective"]["value"], 16), self.vcpu(number)["effective"]["known"]


def outcomes(output):
    """What each access saw; those of the pauses are left out."""
    found = re.findall(r"^msrs cpu=\d+ \w idx=(?!0x1b )\S+ (?:value=(\S+)|gp)$", output, re.MULTILINE)
    return [int(value, 16) if value else None for value in found]


def guest_command(steps, *args, cpus=1, report="/tmp/report.json"):
    """The shell command that has the test guest carry out @steps (see tests/guest/cmd_msr.c)."""
    return shlex.join(["testudo", "run", "-k", "/t2/guest/guest.elf", "-c", str(cpus), *args,
                       "--mitigation-report", report, "-p", f"msrs cpus={cpus} do={','.join(steps)}"])


def msrs(host, steps, *args, cpus=1, policy=None):
    """Carries out @steps in the test guest; the Run, which ended well."""
    if policy is not None:
        host.put(f"version: 1\n{policy}".encode(), "/tmp/policy.yaml")
        args = (*args, "--policy", "/tmp/policy.yaml")
    status, output = host.run(guest_command(steps, *args, cpus=cpus), TIMEOUT_S)
    output = output.replace("\r", "")
    assert status == 0 and output.endswith("done msrs\n"), output
    return Run(status, output, outcomes(output), json.loads(host.get("/tmp/report.json")))


def series(values, cpu=0):
    """Steps that write each of @values to SPEC_CTRL and read it back, the reset value first."""
    return [f"{cpu}.r.48"] + [step for value in values for step in (f"{cpu}.w.48.{value:x}", f"{cpu}.r.48")]


def expected(values):
    """What series() must see when the register is the guest's own."""
    return [0] + [value for value in values for _ in range(2)]


def expected_hidden(values):
    """The same of a guest that is not shown BHI_CTRL: there the bit is reserved, and a write of it changes nothing."""
    seen = [0]
    for value in values:
        seen += [None, seen[-1]] if value & BHI else [value, value]
    return seen


SUPPORTED = IBRS | STIBP | SSBD | BHI  # what the RFC's rule makes of arrow_lake; with RRSBA, RRSBA_DIS_S, too


def keeps_abi(host, cap, supported=SUPPORTED):
    """All cases of abi.c hold on the @host, whose number of the capability is @cap."""
    status, output = host.run(f"/t2/bin/abi {supported:#x} {cap}", TIMEOUT_S)
    assert status == 0 and output.count("ok ") == 24 and "FAIL" not in output, output


# What the patched kernel saw in the register at VM exits, a file a vCPU; written to, it begins anew.
HARDWARE = "/sys/kernel/debug/kvm/$vmm-*/vcpu*/lab_spec_ctrl"
PAUSE = "0.spin.1800.1b"  # reads of the APIC's base: time to stop the VMM and look


@dataclasses.dataclass
class Look:
    """What was to be seen at one moment of a run."""
    report: dict
    hardware: list	# by vCPU {"last", "all", "any": value at the last exit, at all, at any; "exits": count}
    inner: list		# the same of exits from a guest's guest

    def held(self, number=0):
        return int(self.report["vcpus"][number]["held"]["value"], 16)

    def effective(self, number=0):
        return int(self.report["vcpus"][number]["effective"]["value"], 16)


def watched(host, groups, *args, cpus=1, policy=None):
    """As msrs(), with a pause and a Look after each of @groups of steps; (Run, Looks). The hardware's record begins
    anew after each look."""
    if policy is not None:
        host.put(f"version: 1\n{policy}".encode(), "/tmp/policy.yaml")
        args = (*args, "--policy", "/tmp/policy.yaml")
    command = guest_command([step for group in groups for step in (*group, PAUSE)], *args, cpus=cpus)
    look, lines = "", 0
    for group in groups:
        lines += len(group)
        look += f"""
until [ $(grep -c ^msrs /tmp/watched.out) -ge {lines} ] || ! kill -0 $vmm; do sleep 0.02; done
kill -STOP $vmm
cat /tmp/report.json; echo @hardware
for file in {HARDWARE}; do cat $file; echo >$file; done 2>/dev/null
echo @lines $(grep -c ^msrs /tmp/watched.out); echo @look
kill -CONT $vmm
"""
        lines += 1
    status, output = host.run(f"""
rm -f /tmp/report.json; : >/tmp/watched.out
{command} >/tmp/watched.out 2>&1 & vmm=$!
{look}
wait $vmm; status=$?
cat /tmp/watched.out
exit $status""", TIMEOUT_S)
    *looks, said = output.replace("\r", "").split("@look\n")
    assert status == 0 and said.endswith("done msrs\n"), output
    looks = [_look(text, count) for text, count in zip(looks, _counts(groups), strict=True)]
    return Run(status, said, outcomes(said), json.loads(host.get("/tmp/report.json"))), looks


def _counts(groups):
    """The number of lines at each look."""
    counts = []
    for group in groups:
        counts.append((counts[-1] + 1 if counts else 0) + len(group))
    return counts


def _look(text, count):
    report, rest = text.split("@hardware\n")
    assert f"@lines {count}\n" in rest, f"the guest went on while it was looked at:\n{text}"
    return Look(json.loads(report), hardware(rest, "l1"), hardware(rest, "l2"))


def hardware(text, level):
    """What the files HARDWARE say of exits from that @level, by vCPU. Virtual machines of testudo's trials, which it ends
    in the background, come first and never ran."""
    said = {name: [{key: int(value, 0) for key, value in (pair.split("=") for pair in line.split()[1:])}
                   for line in text.splitlines() if line.startswith(name)] for name in ("l1", "l2")}
    ran = next((number for number, seen in enumerate(said["l1"]) if seen["exits"]), 0)
    return said[level][ran:]


def debian(host, *args, script=f"cat {SPECTRE_V2}", **guest):
    """Boots an unmodified Debian guest; (output of the @script, the Look at it after that)."""
    host.put(f"""
until grep -q @look /tmp/boot*.out 2>/dev/null; do sleep 0.1; done
vmm=$(pidof testudo)
cat /tmp/report.json; echo @hardware
for file in {HARDWARE}; do cat $file; done 2>/dev/null
echo @lines 0
echo seen >$(ls /tmp/boot*.in)
""".encode(), "/tmp/look")
    host.check("(sh /tmp/look >/tmp/looked 2>&1) &")
    boot = host.boot(f"{script}; echo @look >/dev/console; read seen", append=APPEND, timeout=TIMEOUT_S,
                     args=[*args, "--mitigation-report", "/tmp/report.json"], **guest)
    assert boot.status == 0, boot
    return boot.output, _look(host.check("cat /tmp/looked"), 0)
