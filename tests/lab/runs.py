"""Runs of the test guest in an emulated host, and what is asked of their reports."""
import dataclasses
import json
import re
import shlex

# Bits of IA32_SPEC_CTRL: SDM vol.4 table 2-2
IBRS, STIBP, SSBD, RRSBA, BHI = 1, 2, 4, 0x40, 0x400
NUMBER = {"IBRS": IBRS, "STIBP": STIBP, "SSBD": SSBD, "RRSBA_DIS_S": RRSBA, "BHI_DIS_S": BHI}
MITIGATION_CTRL = "50000002"

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
    found = re.findall(r"^msrs cpu=\d+ \w idx=\S+ (?:value=(\S+)|gp)$", output, re.MULTILINE)
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
    status, output = host.run(guest_command(steps, *args, cpus=cpus))
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


def late_report(host, *args, policy):
    """A guest that reports the short BHB sequence some time after its start: the reports before and after."""
    host.put(f"version: 1\n{policy}".encode(), "/tmp/policy.yaml")
    # Reads of the APIC's base take a while; meanwhile the report is looked at.
    command = guest_command(["0.w.48.1", "0.spin.20000.1b", f"0.w.{MITIGATION_CTRL}.1", "0.r.48"],
                            "--policy", "/tmp/policy.yaml", *args)
    status, output = host.run(f"""
rm -f /tmp/report.json
{command} >/tmp/late.out 2>&1 & vmm=$!
until [ -s /tmp/report.json ] || ! kill -0 $vmm; do sleep 0.05; done
cat /tmp/report.json
echo @@@
wait $vmm || exit 1
cat /tmp/report.json
echo @@@
cat /tmp/late.out""")
    assert status == 0, output
    before, after, said = output.replace("\r", "").split("@@@\n")
    assert said.endswith("done msrs\n"), said
    return tuple(Run(status, said, outcomes(said), json.loads(text)) for text in (before, after))
