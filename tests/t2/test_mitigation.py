"""What testudo says and does about speculation on an AMD host with stock KVM, asked from four sides: testudo host, the
mitigation report of a run, testudo policy explain, and an unmodified Debian guest with testudo-guest-report in it.

On this host nothing is to be held: the parts are not affected by branch history injection, and only Intel's have the
bits. The emulated CPU takes any value for SPEC_CTRL, so a back end is found that could hold all of them; that none is
held is then the rules' doing, not a lack of means.
"""
import json
import os
import re

import pytest

from test_linux import FACT, facts

pytestmark = pytest.mark.skipif(os.environ.get("T2_VMM", "testudo") != "testudo", reason="asks testudo itself")

CPUS = 2
POLICY_REFUSED, NOT_OFFERED = 4, 3  # exit codes of testudo and of testudo-guest-report
SPECTRE_V2 = "/sys/devices/system/cpu/vulnerabilities/spectre_v2"

# Bits of IA32_SPEC_CTRL: SDM vol.4 table 2-2
BITS = {"IBRS": 0x1, "STIBP": 0x2, "SSBD": 0x4, "IPRED_DIS_U": 0x8, "IPRED_DIS_S": 0x10, "RRSBA_DIS_U": 0x20,
        "RRSBA_DIS_S": 0x40, "PSFD": 0x80, "DDPD_U": 0x100, "BHI_DIS_S": 0x400}
ARCH_CAPABILITIES, VIRTUAL_ENUM = 0x10a, 1 << 63
VIRTUAL_MSRS = [0x50000000, 0x50000001, 0x50000002]

# testudo's table "bhi" and "rrsba": what ends the matter on a processor that is not Intel's
ROWS = [("bhi", 3, "allow", "parts of this vendor are not affected by BHI"),
        ("rrsba", 2, "allow", "only Intel parts have RRSBA")]

STRICT = b"version: 1\nstrict: on\nbhi: on\n"

GUEST = FACT + f"""
rdmsr() {{ dd if=/dev/cpu/$1/msr bs=8 count=1 iflag=skip_bytes skip=$(($2)) 2>/dev/null | hexdump -ve '1/1 "%02x"'; }}
fact module cut -d ' ' -f 1 /proc/modules
fact online cat /sys/devices/system/cpu/online
fact before cat {SPECTRE_V2}
echo "== tool"
/opt/testudo-guest-report
fact status echo $?
echo "== dry"
/opt/testudo-guest-report --dry-run
fact dry.status echo $?
fact after cat {SPECTRE_V2}
for cpu in $(seq 0 {CPUS - 1}); do
	fact arch.$cpu rdmsr $cpu {ARCH_CAPABILITIES:#x}
	for msr in {" ".join(map(hex, VIRTUAL_MSRS))}; do
		fact $msr.$cpu rdmsr $cpu $msr
	done
done
exit 0
"""


@pytest.fixture(scope="module")
def here(amd_stock):
    """What testudo host --json prints in the emulated host."""
    return amd_stock.json("testudo host --json")


@pytest.fixture(scope="module")
def run(amd_stock, guest_report):
    """One run: its Boot, the report that it left, and what the guest saw."""
    boot = amd_stock.boot(GUEST, cpus=CPUS, append="quiet", programs=[guest_report],
                          args=["--mitigation-report", "/scratch/report.json"])
    report = json.loads(amd_stock.get("/scratch/report.json"))
    amd_stock.check("rm /scratch/report.json")
    return {"boot": boot, "report": report, "seen": facts(boot.output)}


@pytest.fixture(scope="module")
def explained(amd_stock, here):
    """What testudo policy explain says, for machines and for people, of the host's own facts in a file."""
    amd_stock.put(json.dumps(here).encode(), "/tmp/facts.json")
    explain = "testudo policy explain --host /tmp/facts.json"
    answer = amd_stock.json(f"{explain} --json"), amd_stock.check(explain)
    amd_stock.check("rm /tmp/facts.json")
    return answer


def rows(steps):
    return [(step["table"], step["row"], step["verdict"], step["reason"]) for step in steps]


# The host

def test_host_names_its_processor(here, amd_stock):
    assert here["facts"]["vendor"] == "AuthenticAMD"
    assert here["facts"]["hypervisor"] is True, "QEMU's CPU says that it is a guest"
    cpuinfo = amd_stock.check("cat /proc/cpuinfo")
    for name, key in (("cpu family", "family"), ("model", "model"), ("stepping", "stepping")):
        assert here["facts"][key] == int(re.search(rf"^{name}\s*: (\d+)$", cpuinfo, re.MULTILINE)[1])


def test_host_tells_kernel_and_vulnerabilities(here, amd_stock):
    assert here["info"]["kernel"] == amd_stock.stock.release
    assert here["info"]["vulnerabilities"]["spectre_v2"] == amd_stock.check(f"cat {SPECTRE_V2}").rstrip("\n")


def test_host_names_a_back_end(here):
    assert here["backend"]["name"] == "msr-filter"
    assert here["backend"]["can-hold"] == list(BITS)


# The report of a run

def test_report_agrees_about_the_host(run, here):
    host, backend = run["report"]["host"], run["report"]["backend"]
    assert not host["facts-given"]
    for key in ("vendor", "family", "model", "stepping"):
        assert host[key] == here["facts"][key]
    assert backend["name"] == here["backend"]["name"]
    assert backend["can-hold"] == here["backend"]["can-hold"]
    assert [trial["name"] for trial in backend["tried"] if trial["usable"]] == ["msr-filter"]


def test_report_says_not_affected(run):
    assert run["boot"].status == 0 and run["boot"].messages == "", run["boot"]
    assert (run["report"]["state"], run["report"]["verdict"]) == ("ended", "allow")
    assert [vcpu["id"] for vcpu in run["report"]["vcpus"]] == list(range(CPUS))
    for vcpu in run["report"]["vcpus"]:
        assert vcpu["verdict"] == "allow" and rows(vcpu["steps"]) == ROWS


def test_nothing_is_held(run):
    nothing = {"mask": "0x0", "value": "0x0", "at-1": [], "at-0": []}
    for vcpu in run["report"]["vcpus"]:
        assert (vcpu["wanted"], vcpu["held"], vcpu["failed"]) == (nothing, nothing, False)
        assert vcpu["effective"] == {"value": vcpu["guest-spec-ctrl"], "known": "read back"}
        assert vcpu["exits"]["spec-ctrl"] == 0 and vcpu["held-bits-lost"] == 0
    assert run["report"]["backend"]["guest-accesses-exit"] is False


# The guest

def test_guest_has_the_msr_module(run):
    assert "msr" in run["seen"]["module"].split()
    assert run["seen"]["online"] == f"0-{CPUS - 1}"


def test_guest_report_sees_what_the_kernel_says(run):
    seen = run["seen"]
    assert seen["before"].startswith("Mitigation: Retpolines") and "BHI: Not affected" in seen["before"]
    assert seen["tool"].splitlines()[0] == f"spectre_v2: {seen['before']}"
    assert seen["after"] == seen["before"]


def test_guest_report_says_not_offered(run):
    seen = run["seen"]
    assert seen["status"] == str(NOT_OFFERED)
    assert seen["tool"].splitlines()[1:] == ["report: BHB_CLEAR_SEQ_S_USED, RETPOLINE_S_USED"] + [
        f"cpu {cpu}: the VMM does not offer the virtual mitigation MSRs" for cpu in range(CPUS)]


def test_guest_report_dry_run(run):
    seen = run["seen"]
    assert seen["dry.status"] == "0"
    assert seen["dry"].splitlines() == [f"spectre_v2: {seen['before']}", "report: BHB_CLEAR_SEQ_S_USED, RETPOLINE_S_USED (not sent)"]


def test_guest_finds_no_virtual_msrs(run):
    """The same without the tool: the kernel's driver reads ARCH_CAPABILITIES, and finds the others absent."""
    guest = run["report"]["guest"]
    assert (guest["virtual-enumeration"], guest["mitigation-enum"]) == ("0x0", "0x0")
    for cpu in range(CPUS):
        value = int.from_bytes(bytes.fromhex(run["seen"][f"arch.{cpu}"]), "little")
        assert value == int(guest["arch-capabilities"], 16) and not value & VIRTUAL_ENUM
        assert [run["seen"][f"{msr:#x}.{cpu}"] for msr in VIRTUAL_MSRS] == ["", "", ""]


def test_nothing_was_reported(run):
    for vcpu in run["report"]["vcpus"]:
        assert vcpu["report"] == {"aware": False, "enum-read": False, "written": False, "ctrl": "0x0"}
        assert vcpu["exits"]["virtual-msr"] == 0


# The policy

@pytest.fixture
def strict(amd_stock):
    amd_stock.put(STRICT, "/tmp/strict.yaml")
    yield "/tmp/strict.yaml"
    amd_stock.check("rm /tmp/strict.yaml")


def test_strict_policy_is_refused(amd_stock, strict):
    amd_stock.check(f"testudo policy check {strict}")
    boot = amd_stock.boot("echo ran", args=["--policy", strict, "--mitigation-report", "/scratch/refused.json"])
    assert boot.status == POLICY_REFUSED, boot
    assert boot.messages == ("testudo: error: refused by policy: back end msr-filter: bhi row 3, BHI_DIS_S at 1: bhi is "
                             "on in the policy, but only Intel parts have BHI_DIS_S; set bhi: auto, or use a host of "
                             "Intel\n")
    assert (boot.console, boot.scripts) == ("", []), "the guest must not have started"
    report = json.loads(amd_stock.check("cat /scratch/refused.json; rm /scratch/refused.json"))
    assert (report["state"], report["verdict"]) == ("refused", "refuse")


def test_explain_foretells_the_refusal(amd_stock, strict):
    decision = amd_stock.json(f"testudo policy explain --json --policy {strict}", status=POLICY_REFUSED)["decision"]
    assert (decision["verdict"], decision["at-1"]) == ("refuse", [])
    assert rows(decision["steps"])[0] == ("bhi", 3, "refuse",
                                          "bhi is on in the policy, but only Intel parts have BHI_DIS_S")


def test_explain_agrees_with_the_report(explained, run):
    answer, text = explained
    assert answer["backend"]["name"] == run["report"]["backend"]["name"]
    decision = answer["decision"]
    for vcpu in run["report"]["vcpus"]:
        assert decision["verdict"] == vcpu["verdict"]
        assert rows(decision["steps"]) == rows(vcpu["steps"])
        assert [step["source"] for step in decision["steps"]] == [step["source"] for step in vcpu["steps"]]
        assert (decision["mask"], decision["value"]) == (vcpu["wanted"]["mask"], vcpu["wanted"]["value"])
    for key, value in run["report"]["guest"].items():
        assert answer["guest"][key.replace("_", "-")] == value, key
    assert f"verdict     {run['report']['verdict']}\n" in text
    for table, row, verdict, reason in ROWS:
        assert re.search(rf"^  {table} row {row}, \w+: {verdict}: {reason}$", text, re.MULTILINE), text
