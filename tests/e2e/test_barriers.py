"""
Branch predictor barriers when vCPUs change: what `testudo policy explain` says of them is what a guest gets, with
KVM_CAP_X86_VCPU_IBPB (tests/shim, KVM_SHIM_IBPB) and on this machine's own KVM.
"""

import json
import os
import pathlib
import subprocess

import pytest

import harness
import moving
from harness import OFF
from test_explain_is_true import rows
from test_migration_matrix import CTL, ENUM, fact_file, open_gate, start  # noqa: F401
from test_mitigation import ALL, AMD, POLICY, SAPPHIRE_RAPIDS, guest  # noqa: F401
from test_save import saved

EACH, USED, NONE = "each time", "once the guest has issued one", "none"
# what the policy says, and what a guest gets of a KVM that can be told; the rows of the table
DRIVEN = {
    "": (EACH, None, False, []),
    "vcpu-switch-barrier: always": (EACH, None, True, [1]),
    "vcpu-switch-barrier: used": (USED, NONE, True, [1]),
    "vcpu-switch-barrier: never": (NONE, NONE, True, [1]),
    "pcpu-move-barrier: on": (EACH, EACH, True, [7]),
    "vcpu-switch-barrier: used, pcpu-move-barrier: on": (USED, USED, True, [1, 7]),
}


def isolated(words, more=""):
    return f"isolation: {{{words}}}\n{more}"


def told(steps):
    return [row for table, row, _ in rows(steps) if table == "barrier"]


def explain(work, policy, barriers, *words, host=SAPPHIRE_RAPIDS):
    """policy explain --json, of a host of whose barriers the fact file says @barriers"""
    path = pathlib.Path(work, "explain.json")
    path.write_text(json.dumps({
        "testudo-host-facts": 1, "facts": host, "backend": {"name": "none", "can-hold": []}, "barriers": barriers}))
    pathlib.Path(work, "explained.yaml").write_text("version: 1\n" + policy)
    return subprocess.run([harness.TESTUDO, "policy", "explain", "--host", path, "--policy", f"{work}/explained.yaml", *words],
                          capture_output=True, text=True, check=False)


def barriers_of(kernel, ibpb, per_vm=False):
    return {"kernel": kernel, "ibpb": ibpb, "per-vm": per_vm}


# ---- explain alone: hosts that are not here ----

@pytest.mark.nokvm
@pytest.mark.parametrize("words,facts,host,row,code", [
    ("vcpu-switch-barrier: always", ("6.12", "conditional", True), SAPPHIRE_RAPIDS, 1, 0),
    ("vcpu-switch-barrier: always", ("6.1", "conditional"), AMD, 3, 0),
    ("vcpu-switch-barrier: always", ("7.3", "always-on"), SAPPHIRE_RAPIDS, 3, 0),
    ("vcpu-switch-barrier: always", ("6.12", "disabled"), SAPPHIRE_RAPIDS, 4, POLICY),
    ("vcpu-switch-barrier: used", ("6.16", "disabled"), SAPPHIRE_RAPIDS, 4, POLICY),
    ("vcpu-switch-barrier: used", ("6.16", "unknown"), SAPPHIRE_RAPIDS, 5, 0),
    ("vcpu-switch-barrier: used", ("6.1", "conditional"), SAPPHIRE_RAPIDS, 6, 0),
    ("vcpu-switch-barrier: never", ("6.16", "conditional"), AMD, 6, 0),
    ("pcpu-move-barrier: on", ("6.12", "conditional", True), AMD, 7, 0),
    ("pcpu-move-barrier: on", ("6.12", "conditional"), SAPPHIRE_RAPIDS, 8, 0),
    ("pcpu-move-barrier: on", ("6.12", "conditional"), AMD, 9, POLICY),
    ("pcpu-move-barrier: on", ("6.16", "conditional"), SAPPHIRE_RAPIDS, 9, POLICY),
    ("pcpu-move-barrier: on", ("6.16", "unknown"), SAPPHIRE_RAPIDS, 10, 0),
])
def test_rows_of_hosts_that_are_not_here(work, words, facts, host, row, code):
    policy = isolated(words, "cannot: refuse\nbhi: off\nrrsba: off\n")
    r = explain(work, policy, barriers_of(*facts), "--json", host=host)
    assert r.returncode == code, r
    assert told(json.loads(r.stdout)["decision"]["steps"]) == [row]
    r = explain(work, policy, barriers_of(*facts), host=host)
    assert f"barrier row {row}: " in r.stdout and f"KVM of Linux {facts[0]}, IBPB {facts[1]};" in r.stdout, r


@pytest.mark.nokvm
def test_never_is_given_up_under_strict(work):
    r = explain(work, isolated("vcpu-switch-barrier: never", "strict: on\n"), barriers_of("6.12", "conditional", True), host=AMD)
    assert r.returncode == POLICY and "barrier row 2: refuse" in r.stdout and "cure: set vcpu-switch-barrier: used" in r.stdout, r


@pytest.mark.nokvm
def test_a_file_that_says_nothing_changes_nothing(work):
    r = explain(work, "", barriers_of("0.0", "unknown"))
    assert "barriers" not in r.stdout, r


@pytest.mark.nokvm
@pytest.mark.parametrize("key,value,cause", [("kernel", "6", "6"), ("kernel", "06.1", "06.1"), ("ibpb", "on", "unknown, disabled"),
                                             ("per-vm", 1, "true or false")])
def test_bad_facts_are_refused(work, key, value, cause):
    r = explain(work, "", dict(barriers_of("6.12", "conditional"), **{key: value}))
    assert r.returncode == 3 and f"barriers.{key}" in r.stderr and cause in r.stderr, r


# ---- a KVM that can be told ----

@pytest.mark.parametrize("words", DRIVEN)
def test_a_guest_gets_what_explain_says(guest, work, words):  # noqa: F811
    on_switch, on_move, chosen, table = DRIVEN[words]
    policy = isolated(words) if words else ""
    g = guest("vcpu", ["0.r.48"], cpus=2, ibpb=1, policy=policy)
    assert g.result.code == OFF, str(g.result)
    got = g.report["isolation"]["barriers"]
    assert (got["vcpu-switch"], got["chosen"]) == (on_switch, chosen)
    assert on_move in (None, got["pcpu-move"])
    assert told(g.vcpu()["steps"]) == table

    facts = json.loads(here(work, ibpb=1))["barriers"]
    assert facts["per-vm"] is True
    r = explain(work, policy, facts, "--json")
    said = json.loads(r.stdout)
    assert said["barriers"] == got and told(said["decision"]["steps"]) == table


def here(work, **values):
    """testudo host --json, on the host that the guest of a test was on"""
    prefix = harness.environment(harness.overlay(pathlib.Path(work, "host.json"), "vcpu", bits=ALL, **values))
    return subprocess.run([*prefix, str(harness.TESTUDO), "host", "--json"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("ibpb", [0, "lax"])
def test_a_number_alone_is_not_trusted(guest, work, ibpb):  # noqa: F811
    """A kernel in which that number is another capability, one that takes anything."""
    g = guest("vcpu", ["0.r.48"], cpus=1, ibpb=ibpb, policy=isolated("vcpu-switch-barrier: never"))
    assert g.result.code == OFF, str(g.result)
    assert g.report["isolation"]["barriers"]["chosen"] is False
    assert told(g.vcpu()["steps"]) == [6] and g.vcpu()["barriers"] is None
    assert json.loads(here(work, ibpb=ibpb))["barriers"]["per-vm"] is False


# ---- a guest that moves ----

def begin(start, work, name, steps, *args, ibpb, cpus=2, mode="vcpu", wrap=list, more="",  # noqa: F811
          words="vcpu-switch-barrier: used", **kwargs):
    """@wrap: makes the first words of the command of those with the KVM; @words: of the policy, under isolation"""
    facts, kvm = fact_file(work, name, "spr", mode)
    kvm = wrap([*kvm, f"KVM_SHIM_IBPB={ibpb}"])
    path = pathlib.Path(work, f"{name}.yaml")
    path.write_text("version: 1\n" + isolated(words, more))
    if steps:
        kwargs["params"] = f"msrs cpus={cpus} do={','.join(steps)}"
    return start(name, facts, kvm, path, *args, cpus=cpus, **kwargs)


def arrived(g):
    harness.wait_for(lambda: g.socket.exists() and moving.Qmp(g).status() == "running")
    return g


def report_of(g):
    return moving.Qmp(g).execute("x-testudo-query-mitigation")


def test_issued_moves_with_the_guest_over_a_host_without_the_capability(start, work):  # noqa: F811
    one = begin(start, work, "a", ["1.w.49.1", "0.wait.1", "0.r.48"], ibpb=1)
    one.wait_console("msrs wait 1\n")
    saved(one, f"{work}/first")
    two = arrived(begin(start, work, "b", None, ibpb=0, incoming=f"file:{work}/first"))
    saved(two, f"{work}/second")
    three = arrived(begin(start, work, "c", None, ibpb=1, incoming=f"file:{work}/second"))
    r = report_of(three)
    assert [v["ibpb-issued"] for v in r["vcpus"]] == [False, True]
    assert r["isolation"]["barriers"]["chosen"] is True
    assert "ibpb-vcpu-switch" in r["vcpus"][0]["barriers"]


def test_stat_prints_the_counts(start, work):  # noqa: F811
    g = begin(start, work, "a", ["0.wait.1", "0.r.48"], ibpb=1)
    g.wait_console("msrs wait 1\n")
    text = subprocess.run([harness.TESTUDO, "stat", g.name], env=g.env, capture_output=True, text=True, check=True).stdout
    assert " SWITCHES " in text and " IBPB-SWITCH " in text and "ISSUED" in text, text


def taking_turns(n):
    """Steps of two vCPUs after each other, each with an exit to testudo, which answers, and back."""
    return [f"{cpu}.r.{CTL}" for _ in range(n) for cpu in (0, 1)]


def on_one_cpu(kvm):
    """The words of an environment, for a program on one CPU of this machine: there its vCPUs change."""
    return ["taskset", "-c", str(min(os.sched_getaffinity(0))), *kvm]


def counted(g, what):
    return sum(v["barriers"][what] for v in report_of(g)["vcpus"])


def barriers_between(g):
    return counted(g, "ibpb-vcpu-switch")


@pytest.mark.parametrize("observed", ["on", "off"])
def test_an_issued_barrier_is_known(start, work, observed):  # noqa: F811
    """By KVM itself, and by what testudo tells it where the guest's first one was answered by testudo: from then on its
    changes of vCPUs have barriers."""
    g = begin(start, work, "a", ["1.w.49.0", "0.wait.1", *taking_turns(20), "0.wait.2", "1.w.49.1", "0.wait.3",
                                 *taking_turns(20), "0.wait.4", "0.r.48"],
              ibpb=1, wrap=on_one_cpu, words=f"vcpu-switch-barrier: used, observe-ibpb: {observed}")
    found = []
    for gate in (1, 2, 3, 4):
        g.wait_console(f"msrs wait {gate}\n")
        if gate == 3:
            harness.wait_for(lambda: report_of(g)["isolation"]["guest-ibpb"] == "used")
        found.append((counted(g, "vcpu-switches"), barriers_between(g)))
        r = report_of(g)
        assert [v["ibpb-issued"] for v in r["vcpus"]] == [False, gate > 2]
        assert r["isolation"]["guest-ibpb"] == ("used" if gate > 2 else "not seen")
        open_gate(g, gate)
    assert g.end() == 0, g.log()
    assert found[1][0] > found[0][0] and found[1][1] == 0
    assert found[3][0] > found[2][0] and found[3][1] > found[2][1]
    assert sum(v["exits"]["pred-cmd"] for v in r["vcpus"]) == (2 if observed == "on" else 0)


def test_a_guest_that_issues_none(start, work):  # noqa: F811
    """Its vCPUs change, and are counted."""
    g = begin(start, work, "a", ["0.w.49.0", "0.wait.1", *taking_turns(20), "0.wait.2", "1.r.48"], ibpb=1, wrap=on_one_cpu)
    g.wait_console("msrs wait 1\n")
    before = counted(g, "vcpu-switches")
    open_gate(g, 1)
    g.wait_console("msrs wait 2\n")
    assert counted(g, "vcpu-switches") > before
    r = report_of(g)
    assert [v["ibpb-issued"] for v in r["vcpus"]] == [False, False]
    assert r["isolation"]["guest-ibpb"] == "not seen"
    assert [v["barriers"]["ibpb-vcpu-switch"] for v in r["vcpus"]] == [0, 0]
    open_gate(g, 2)
    assert g.end() == 0, g.log()


def test_a_barrier_that_only_kvm_saw_is_not_looked_for_again(start, work):  # noqa: F811
    """The source has no tick that asks KVM: it learns of it when the guest stands. The destination, told to observe the
    first one, lets go of PRED_CMD at the first write."""
    steps = ["1.w.49.1", "0.wait.1", *["1.w.49.1"] * 5, "0.wait.2", "0.r.48"]
    one = begin(start, work, "a", steps, ibpb=1, words="vcpu-switch-barrier: always")
    one.wait_console("msrs wait 1\n")
    assert report_of(one)["isolation"]["guest-ibpb"] == "not observed"
    two = begin(start, work, "b", None, ibpb=1, incoming=f"unix:{work}/m", words="vcpu-switch-barrier: used, observe-ibpb: on")
    moving.wait_listening(two)
    code, _, err = moving.migrate(one, f"unix:{work}/m")
    assert code == moving.MOVED, err
    assert report_of(two)["isolation"]["guest-ibpb"] == "used"
    open_gate(two, 1)
    two.wait_console("msrs wait 2\n")
    assert sum(v["exits"]["pred-cmd"] for v in report_of(two)["vcpus"]) == 1


@pytest.mark.parametrize("issued", [True, False])
def test_issued_moves_live(start, work, issued):  # noqa: F811
    """In `used` the destination's KVM has barriers from the start, if the guest issued one at the source."""
    steps = [*(["1.w.49.1"] if issued else []), "0.wait.1", *taking_turns(20), "0.wait.2", "0.r.48"]
    one = begin(start, work, "a", steps, ibpb=1)
    one.wait_console("msrs wait 1\n")
    two = begin(start, work, "b", None, ibpb=1, incoming=f"unix:{work}/m", wrap=on_one_cpu)
    moving.wait_listening(two)
    code, _, err = moving.migrate(one, f"unix:{work}/m")
    assert code == moving.MOVED, err
    assert [v["ibpb-issued"] for v in report_of(two)["vcpus"]] == [False, issued]
    before = barriers_between(two)
    open_gate(two, 1)
    two.wait_console("msrs wait 2\n")
    assert (barriers_between(two) > before) == issued
    assert [v["ibpb-issued"] for v in report_of(two)["vcpus"]] == [False, issued]


@pytest.mark.parametrize("issued", [True, False])
def test_issued_stays_when_the_vm_is_built_anew(start, work, issued):  # noqa: F811
    """A late report to a frozen mask: the new VM's KVM, which the guest has issued none to, is told."""
    steps = [*(["1.w.49.1"] if issued else []), f"0.r.{ENUM}", f"0.w.{CTL}.1", "0.wait.1", *taking_turns(20), "0.wait.2",
             "0.r.48"]
    g = begin(start, work, "a", steps, ibpb=1, mode="rfc", wrap=on_one_cpu, more="hold-unaware: off\nfrozen-mask: rebuild\n")
    g.wait_console("msrs wait 1\n")
    harness.wait_for(lambda: report_of(g)["backend"]["vm-rebuilds"] == 1)
    assert "built anew in" in g.log()
    r = report_of(g)
    assert [v["ibpb-issued"] for v in r["vcpus"]] == [False, issued] and r["isolation"]["barriers"]["chosen"] is True
    before = barriers_between(g)
    open_gate(g, 1)
    g.wait_console("msrs wait 2\n")
    assert (barriers_between(g) > before) == issued
    open_gate(g, 2)
    assert g.end() == 0, g.log()


@pytest.mark.parametrize("limit,all_counted", [(1024, True), (640, False), (560, False)])
def test_statistics_of_many_vcpus_leave_descriptors_for_the_rest(start, work, limit, all_counted):  # noqa: F811
    """255 vCPUs have a descriptor each, and another one for their numbers while there are enough; the library has one more.
    What the program needs besides is never short: it reports, listens, and is saved. One of them runs: the others would
    keep this machine busy."""
    g = begin(start, work, "a", None, ibpb=1, cpus=255, params="msrs cpus=1 do=0.w.48.1,0.wait.1,0.r.48",
              wrap=lambda kvm: ["prlimit", f"--nofile={limit}", *kvm])
    g.wait_console("msrs wait 1\n")
    counted = [v["barriers"] is not None for v in report_of(g)["vcpus"]]
    print(f"{sum(counted)} of {len(counted)} vCPUs are counted")
    assert len(counted) == 255 and all(counted) == all_counted
    assert len(os.listdir(f"/proc/{g.p.pid}/fd")) <= limit - 32
    saved(g, f"{work}/all")


# ---- a guest and its own guests ----

@pytest.mark.parametrize("ibpb,row", [(1, None), ("bare", 6)])
def test_a_kvm_that_tells_of_nested_exits(guest, work, ibpb, row):  # noqa: F811
    """Whether it has the barrier there is what it says, whatever its kernel's version is; a fact file carries that."""
    template = pathlib.Path(work, "svm.json")
    template.write_text(json.dumps({"cpuid_modifiers": [{"leaf": "0x80000001", "subleaf": "0x0", "flags": 0, "modifiers": [
        {"register": "ecx", "bitmap": f"0b{'x' * 29}1xx"}]}]}))

    def nested(steps):
        return [(number, verdict) for table, number, verdict in rows(steps) if table == "nested"]

    for strict, verdict, code in (("", "warn", OFF), ("strict: on\n", "refuse", POLICY)):
        words = ["--cpu", template, "--kernel", "x"][:2]
        policy = f"nested: shown\nbhi: off\nrrsba: off\n{strict}"
        g = guest("vcpu", ["0.r.48"], *words, cpus=1, host=AMD, bits=3, ibpb=ibpb, policy=policy)
        assert g.result.code == (code if row else OFF), str(g.result)
        assert nested(g.vcpu()["steps"]) == ([(row, verdict)] if row else [])

        facts = json.loads(here(work, ibpb=ibpb))["barriers"]
        assert (facts["per-vm"], facts["nested-exit"]) == (True, not row)
        r = explain(work, policy, facts, "--json", host=AMD)
        assert r.returncode == (4 if row and strict else 0), r
        assert nested(json.loads(r.stdout)["decision"]["steps"]) == ([(row, verdict)] if row else [])
