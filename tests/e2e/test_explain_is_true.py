"""What `testudo policy explain` says is what `testudo run` holds: each back end, several policies, reports and parts."""

import json
import pathlib
import subprocess

import pytest

import harness
from harness import OFF
from test_mitigation import (CONTROLS, EDX_7_2, EIBRS, HOLDING, HW, ICE_LAKE, POLICY, SAPPHIRE_RAPIDS, guest,  # noqa: F401
                             pool_files)

POLICIES = {
    "default": "", "strict": "strict: on\n", "bhi on": "bhi: on\n", "bhi off": "bhi: off\n", "rrsba on": "rrsba: on\n",
    "no virtual MSRs": "virtual-msrs: off\n", "raw": "spec-ctrl: {SSBD: on, STIBP: off}\n",
    "reports ignored": "honour-report: ignore\n",
}
# what the guest does on its first CPU, and the word by which explain is told of it
REPORTS = {
    "unaware": ([], "unaware"),
    "short": (["0.r.50000001", "0.w.50000002.1"], "short"),
    "none": (["0.r.50000001", "0.w.50000002.0"], "none"),
}
MODES = [*HOLDING, "drops"]
CAN_FORCE = ["IBRS", "STIBP", "SSBD", "RRSBA_DIS_S", "BHI_DIS_S"]


def explain(work, policy, reported, *words, whole=False):
    done = subprocess.run([harness.TESTUDO, "policy", "explain", "--json", "--host", f"{work}/explain.json",
                           "--policy", f"{work}/policy.yaml", "--guest", f"reported={reported}", *words],
                          capture_output=True, text=True, check=False)
    assert done.returncode in (0, POLICY), f"{policy}: {done.stderr}"
    answer = json.loads(done.stdout)
    return answer if whole else answer["decision"]


@pytest.mark.parametrize("pool", ["this-host", "mixed", "any", "[icx.json, spr.json]", "[icx.json]", "[spr.json]"])
@pytest.mark.parametrize("mode", HOLDING)
def test_run_shows_what_explain_says(guest, work, mode, pool):  # noqa: F811
    """The newer part of a mixed pool: what the guest is shown, what is held for it, and where this host is listed."""
    pool_files(work)
    policy = f"pool: {pool}\n"
    g = guest(mode, [f"0.r.{EDX_7_2}", "0.r.10a", f"0.r.{HW}"], edx_7_2=CONTROLS, policy=policy)
    facts = json.loads(pathlib.Path(work, "host.json").read_text())
    facts["backend"] = {"name": HOLDING[mode], "can-hold": CAN_FORCE}
    pathlib.Path(work, "explain.json").write_text(json.dumps(facts))
    said = explain(work, policy, "unaware", whole=True)

    edx, arch_cap, held = g.outcomes()
    assert edx == int(said["guest"]["cpuid-7-2-edx"], 16) == int(g.report["guest"]["cpuid-7-2-edx"], 16)
    assert arch_cap == int(said["guest"]["arch-capabilities"], 16)
    assert (edx == 0) == (pool not in ("this-host", "[spr.json]"))
    rsba = 4 if pool in ("mixed", "any") else 0  # Skylake may be among those that a word names
    assert arch_cap & ~(1 << 63) == EIBRS | rsba
    assert held == int(said["decision"]["value"], 16)
    assert ("BHI_DIS_S" in said["decision"]["at-1"]) == (edx == 0)
    assert rows(g.vcpu(0)["steps"]) == rows(said["decision"]["steps"])
    # in mode filter this host is the one of spr.json, and is not counted again
    here = 1 if pool == "[spr.json]" and mode == "filter" else 2
    assert said["pool"]["hosts"] == {"this-host": 1, "[icx.json, spr.json]": 2 if mode == "filter" else 3}.get(pool, here)


@pytest.mark.parametrize("cpu", ["host", "host,-bhi_ctrl", "host,-rrsba_ctrl,-bhi_ctrl", "host,-arch_capabilities"])
@pytest.mark.parametrize("mode", HOLDING)
def test_run_shows_the_cpu_that_explain_says(guest, work, mode, cpu):  # noqa: F811
    g = guest(mode, [f"0.r.{EDX_7_2}", f"0.r.{HW}"], "--cpu", cpu, edx_7_2=CONTROLS, policy="")
    facts = json.loads(pathlib.Path(work, "host.json").read_text())
    facts["backend"] = {"name": HOLDING[mode], "can-hold": CAN_FORCE}
    pathlib.Path(work, "explain.json").write_text(json.dumps(facts))
    said = explain(work, "", "unaware", "--cpu", cpu, whole=True)

    edx, held = g.outcomes()
    assert edx == int(said["guest"]["cpuid-7-2-edx"], 16)
    assert held == int(said["decision"]["value"], 16)
    assert g.report["guest"]["arch-capabilities"] == said["guest"]["arch-capabilities"]
    assert rows(g.vcpu(0)["steps"]) == rows(said["decision"]["steps"])


def rows(steps):
    return [(step["table"], step["row"], step["verdict"]) for step in steps]


@pytest.mark.parametrize("host", [SAPPHIRE_RAPIDS, ICE_LAKE], ids=["sapphire-rapids", "ice-lake"])
@pytest.mark.parametrize("reported", REPORTS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", MODES)
def test_run_holds_what_explain_says(guest, work, mode, policy, reported, host):  # noqa: F811
    steps, word = REPORTS[reported]
    if policy == "no virtual MSRs" or mode == "drops":
        steps, word = [], "unaware"  # there is nothing to report by
    g = guest(mode, [*steps, f"0.r.{HW}"], host=host, policy=POLICIES[policy])
    backend = {"name": HOLDING.get(mode, "none"), "can-hold": CAN_FORCE if mode in HOLDING else []}
    if g.report:  # none where the guest never started
        found = g.report["backend"]
        assert {"name": found["name"], "can-hold": found["can-hold"]} == backend
    facts = json.loads(pathlib.Path(work, "host.json").read_text())
    facts["backend"] = backend
    pathlib.Path(work, "explain.json").write_text(json.dumps(facts))
    said = explain(work, policy, word)

    if said["verdict"] == "refuse":
        assert g.result.code == POLICY, str(g.result)
        return
    assert g.result.code == OFF, str(g.result)
    vcpu = g.vcpu(0)
    assert (vcpu["wanted"]["mask"], vcpu["wanted"]["value"]) == (said["mask"], said["value"]), said
    assert vcpu["verdict"] == said["verdict"]
    assert rows(vcpu["steps"]) == rows(said["steps"])
    # and the register has it: what the shim keeps as the hardware's value, read by the guest last of all
    held, value = int(vcpu["held"]["mask"], 16), int(vcpu["held"]["value"], 16)
    assert g.outcomes()[-1] & held == value
    assert value & int(said["value"], 16) == int(said["value"], 16)
