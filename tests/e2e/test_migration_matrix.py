"""
The mitigations of a guest that moves: hosts (fact files), back ends (tests/shim), guests and policies, end to end
through the stream. What the destination decides, holds, and says must be what `testudo policy explain --from` says.

Both processes run on this machine's CPU; who the hosts are is what their fact files say.
"""

import itertools
import json
import os
import pathlib
import re
import subprocess

import pytest

import faulty
import harness
import moving
from test_mitigation import HOLDING, HW, SHIM

GATE_GPA = 0x48000  # tests/guest/heartbeat.h
FOLDER = harness.ROOT / "tests" / "data" / "hosts"
CTL, SPEC_CTRL, ENUM = "50000002", "48", "50000001"
BITS = {"IBRS": 0x1, "STIBP": 0x2, "SSBD": 0x4, "RRSBA_DIS_S": 0x40, "BHI_DIS_S": 0x400}
OLD, NEW = ["IBRS", "STIBP", "SSBD"], list(BITS)
BHI_NO, RRSBA = 1 << 20, 1 << 19


def published(name):
    return json.loads((FOLDER / f"{name}.json").read_text())["facts"]


ICX, SPR, ADL, SRF = (published(name) for name in ("icelake-server", "sapphire-rapids", "alder-lake", "sierra-forest"))
AMD = published("epyc-rome")


def changed(facts, **what):
    return dict(facts, **{key.replace("_", "-"): value for key, value in what.items()})


# What every pair of hosts can show: then only the mitigations differ. ("sees all" below is for what they cannot.)
PLAIN = {"kvm-cpuid-7-0-edx": "0xac000000", "kvm-cpuid-7-2-edx": "0x0", "kvm-arch-capabilities": hex(0xeb | RRSBA)}
CONTROLS = {**PLAIN, "kvm-cpuid-7-2-edx": "0x1f"}

# name: (facts, bits that its KVM can hold)
HOSTS = {
    "icx": (dict(ICX, **PLAIN), OLD),
    "spr": (dict(SPR, **PLAIN), NEW),
    "adl": (dict(ADL, **PLAIN), NEW),
    "srf": (dict(SRF, **PLAIN), NEW),
    "emr": (changed(dict(SPR, **PLAIN), model=0xcf, stepping=2), NEW),
    "bhi-no": (changed(dict(SPR, **PLAIN), kvm_arch_capabilities=hex(0xeb | RRSBA | BHI_NO)), NEW),
    "masked": (changed(dict(SPR, **PLAIN), cpuid_7_2_edx="0x0"), OLD),       # as a nested host, or with old microcode
    "new": (changed(dict(SPR, **PLAIN), model=0xfe), NEW),                   # newer than testudo, and has the control
    "new-without": (changed(dict(SPR, **PLAIN), model=0xfe, cpuid_7_2_edx="0x0"), OLD),
    "amd": (dict(AMD, **{"kvm-cpuid-7-0-edx": "0xac000000", "kvm-arch-capabilities": hex(0xeb)}), OLD),
    "spr-shows": (dict(SPR, **CONTROLS), NEW),  # KVM shows its guests the controls
    "adl-shows": (dict(ADL, **CONTROLS), NEW),
    "icx-hides": (changed(dict(ICX, **PLAIN), kvm_arch_capabilities="0xeb"), OLD),  # older microcode: no word of RRSBA
    "spr-hides": (changed(dict(SPR, **PLAIN), kvm_arch_capabilities="0xeb"), NEW),
}

# name: (what it does before the move, its words for explain)
GUESTS = {
    "unaware": ([], "reported=unaware"),
    "short": ([f"0.r.{ENUM}", f"0.w.{CTL}.1"], "reported=short"),
    "none": ([f"0.r.{ENUM}"], "reported=none"),
    "retpoline": ([f"0.r.{ENUM}", f"0.w.{CTL}.2"], "reported=retpoline"),
    "both": ([f"0.r.{ENUM}", f"0.w.{CTL}.3"], "reported=short,retpoline"),
    "owner": (["0.w.48.401"], "reported=unaware"),  # shown BHI_CTRL: it sets the bit itself
}
REPORT = {"unaware": 0, "short": 1, "none": 0, "retpoline": 2, "both": 3, "owner": 0}

POLICIES = {
    "default": "", "strict": "strict: on\n", "let come": "incoming-cannot: warn\n", "never": "cannot: refuse\n",
    "bhi on": "bhi: on\n", "bhi off": "bhi: off\n", "rrsba on": "rrsba: on\n", "rrsba off": "rrsba: off\n",
    "raw on": "spec-ctrl: {SSBD: on}\n", "raw off": "spec-ctrl: {STIBP: off}\n",
    "raw BHI on": "spec-ctrl: {BHI_DIS_S: on}\n", "raw BHI off": "spec-ctrl: {BHI_DIS_S: off}\n",
    "not unasked": "hold-unaware: off\n", "tighten": "honour-report: tighten\n", "relax": "honour-report: relax\n",
    "ignore": "honour-report: ignore\n", "no virtual MSRs": "virtual-msrs: off\n",
    "not enough": "bhi-no-is-enough: off\n", "on a report": "hold-when-shown: on\n",
    "frozen": "frozen-mask: rebuild\n", "pool": "pool: mixed\n", "strict, not unasked": "strict: on\nhold-unaware: off\n",
}


class Case:
    """One move. @here, @there: host/back end (a mode of the shim) of source and destination; @policy: of both."""

    def __init__(self, here, there, guest="unaware", policy="default"):
        self.source, self.destination = ((h + "/filter").split("/")[:2] for h in (here, there))
        self.guest, self.policy = guest, policy
        self.id = f"{here} to {there}, {guest}, {policy}"


def fact_file(work, side, host, mode):
    """The host's facts as `testudo host --json` writes them there; and the words of an environment with that KVM."""
    facts, can_force = HOSTS[host]
    backend = {"name": HOLDING.get(mode, "none"), "can-hold": can_force if mode in HOLDING else []}
    path = pathlib.Path(work, side + ".json")
    path.write_text(json.dumps({"testudo-host-facts": 1, "facts": facts, "backend": backend}))
    bits = sum(BITS[name] for name in can_force)
    return path, harness.environment(harness.overlay(path, mode, bits=bits))


def explain(policy, host, *words):
    done = subprocess.run([harness.TESTUDO, "policy", "explain", "--json", "--policy", policy, "--host", host, *words],
                          capture_output=True, text=True, check=False)
    assert done.returncode in (0, moving.REFUSED), done.stderr
    return json.loads(done.stdout)


def open_gate(guest, n):
    """The msrs command goes on after its wait.@n."""
    guest.poke(GATE_GPA, n.to_bytes(4, "little"))


def outcomes(text):
    """What each step saw: a number, or None for #GP."""
    return [int(value, 16) if value else None
            for value in re.findall(r"^msrs cpu=\d+ \w idx=\S+ (?:value=(\S+)|gp)$", text, re.MULTILINE)]


def rows(steps):
    return [(s["table"], s["row"], s["verdict"], s["reason"]) for s in steps]


@pytest.fixture
def start(work):
    if not SHIM.exists():
        pytest.skip(f"{SHIM} is not built")
    guests = []

    def begin(name, facts, kvm, policy, *args, **kwargs):
        kwargs.setdefault("mem", 16)
        g = moving.Guest(work, name, "--host-facts", facts, "--policy", policy, *args, prefix=kvm, **kwargs)
        guests.append(g)
        return g

    yield begin
    for g in guests:
        g.__exit__()


def changes(text):
    """{bit: (was, is)} of "X was not held on A, is held on B: why; ..." """
    return {bit: (not was, not now) for bit, was, now in
            re.findall(r"(\w+) was (not )?held on [^;,]+, is (not )?held on [^;]+: \w", text)}


def reports(guest, home):
    """What this guest gets to say of @guest's words: what is not offered is a #GP. Return: MSR, words for explain"""
    steps, words = GUESTS[guest]
    if not steps or words == "reported=unaware" or not int(home["virtual-enumeration"], 16):
        return 0, "reported=unaware"
    if REPORT[guest] & ~int(home["mitigation-enum"], 16):
        return 0, "reported=none"
    return REPORT[guest], words


def check_refused(a, b, code, err, steps):
    """@steps: of the decision. The message names each row that refuses, its bits and reason; the guest goes on. The last
    row, features of the CPU, is not looked at where another one refuses."""
    assert code == moving.REFUSED, f"{code}: {err}\n{b.log()}\n{steps}"
    refusals = [step for step in steps if step["verdict"] == "refuse"]
    for step in refusals:
        if (step["table"], step["row"]) != ("migration", 13) or len(refusals) == 1:
            assert f"{step['table']} row {step['row']}" in err and step["reason"] in err, err
            assert all(bit in err for bit in step["bits"]), err
    assert "it goes on at the source" in err
    assert b.end() == moving.REFUSED, b.log()
    open_gate(a, 1)
    assert a.end() == 0, a.log()


def check_moved(a, b, code, err, events, decision, was, ctrl):
    """@was: bits held where it was; @ctrl: what it reported. Report file and words say what explain says."""
    assert code == moving.MOVED, f"{code}: {err}\n{b.log()}\n{decision}"
    vcpu = json.loads(pathlib.Path(b.work, "b.report").read_text())["vcpus"][0]
    assert vcpu["wanted"] == {key: decision[key] for key in ("mask", "value", "at-1", "at-0")}
    assert vcpu["held"] == vcpu["wanted"]
    assert vcpu["verdict"] == decision["verdict"] and rows(vcpu["steps"]) == rows(decision["steps"])
    assert vcpu["short-sequence-adequate"] == decision["short-sequence-adequate"]
    assert int(vcpu["report"]["ctrl"], 16) == ctrl
    was, now = set(was), set(decision["at-1"])
    assert changes(events[-1].get("x-testudo-mitigation", "")) == {
        bit: (bit in was, bit in now) for bit in was ^ now}, events[-1]
    open_gate(b, 1)
    assert b.end() == 0, b.log()


def check_move(start, work, case):
    policy = pathlib.Path(work, "policy.yaml")
    policy.write_text("version: 1\n" + POLICIES[case.policy])
    from_facts, from_kvm = fact_file(work, "from", *case.source)
    to_facts, to_kvm = fact_file(work, "to", *case.destination)
    ctrl, words = reports(case.guest, explain(policy, from_facts)["guest"])
    at_home = explain(policy, from_facts, "--guest", words)
    if at_home["decision"]["verdict"] == "refuse":
        refused = start("a", from_facts, from_kvm, policy, params="hello")
        assert refused.end() == moving.REFUSED, refused.log()
        return
    said = explain(policy, to_facts, "--from", from_facts, "--guest", words)
    stays = said["decision"]["verdict"] == "refuse"

    after = [f"0.r.{HW}", "0.r.48", f"0.r.{CTL}", "0.w.48.1", f"0.r.{HW}", "0.r.48"]
    do = ",".join([*GUESTS[case.guest][0], "0.r.48", "0.wait.1", *after])
    a = start("a", from_facts, from_kvm, policy, params=f"msrs do={do}")
    a.wait_console("msrs wait 1\n")
    before = outcomes(a.console())
    b = start("b", to_facts, to_kvm, policy, "--mitigation-report", f"{work}/b.report", incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    code, events, err = moving.migrate(a, f"unix:{work}/m")
    if stays:
        check_refused(a, b, code, err, said["decision"]["steps"])
        console = a.console()
    else:
        check_moved(a, b, code, err, events, said["decision"], at_home["decision"]["at-1"], ctrl)
        console = a.console() + b.console()

    # what it reads afterwards, where it is then
    there, mode = (at_home, case.source[1]) if stays else (said, case.destination[1])
    mask, value = (int(there["decision"][key], 16) for key in ("mask", "value"))
    offered = int(said["guest"]["virtual-enumeration"], 16)
    assert console.endswith("done msrs\n"), console
    own = before[-1]
    expected = [own & ~mask | value, own, ctrl if offered else None, 1, 1 & ~mask | value, 1]
    if mode == "drops":  # that KVM keeps nothing of the register, for nobody
        expected = [0, own, ctrl if offered else None, 1, 0, 0]
    assert outcomes(console)[len(before):] == expected


PAIRS = ["icx to spr", "spr to icx", "icx to adl", "adl to icx", "icx to srf", "srf to icx", "spr to srf", "srf to spr",
         "adl to spr", "spr to emr", "icx to bhi-no", "spr to bhi-no", "bhi-no to spr", "icx to masked", "spr to masked",
         "masked to icx", "masked to masked", "icx to new", "icx to new-without", "new to spr", "new-without to icx",
         "amd to amd", "amd to spr", "spr to amd", "icx to spr-shows", "spr-hides to icx-hides"]
ALL_MODES = [*HOLDING, "drops"]


def cases():
    """Every pair of hosts with every kind of report; every policy and every pair of back ends where it matters."""
    for pair in PAIRS:
        for guest in ("unaware", "short", "none"):
            yield Case(*pair.split(" to "), guest)
    for pair in ("icx to spr", "spr to icx", "icx-hides to spr-hides", "spr-hides to icx-hides"):
        for guest in ("retpoline", "both"):
            yield Case(*pair.split(" to "), guest)
    for pair in ("spr-shows to adl-shows", "spr-shows to spr", "spr-shows to icx", "spr-shows to spr-shows/rfc"):
        yield Case(*pair.split(" to "), "owner")
    guests = itertools.cycle(["unaware", "short", "both", "none", "retpoline"])
    for pair in ("icx to spr", "spr to icx", "icx to masked", "masked to spr/drops"):
        for policy in POLICIES:
            yield Case(*pair.split(" to "), next(guests), policy)
    for there, guest, policy in (("emr", "none", "bhi on"), ("adl", "both", "raw BHI on"), ("bhi-no", "short", "not enough"),
                                 ("masked", "short", "let come"), ("spr/drops", "none", "let come")):
        yield Case("spr", there, guest, policy)
    for guest, policy in (("owner", "bhi on"), ("short", "on a report"), ("unaware", "strict"), ("owner", "raw BHI off")):
        yield Case("spr-shows", "adl-shows", guest, policy)
    for here, there in itertools.product(ALL_MODES, repeat=2):
        yield Case(f"spr/{here}", f"emr/{there}", next(guests))
    for mode, guest in itertools.product(HOLDING, ("unaware", "short", "none", "both")):
        if mode != "filter":
            yield Case("icx", f"spr/{mode}", guest)
    for guest in ("unaware", "short", "none", "retpoline", "both"):
        yield Case("icx/rfc", "spr/rfc", guest, "frozen")


CASES = list(cases())


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_move(start, work, case):
    check_move(start, work, case)


# ---- over several hosts ----

def named(host, kvm):
    """As on a host of that name."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-u", "true"], check=False).returncode:
        pytest.skip("a host's name cannot be set for one process here")
    return ["unshare", "-u", "sh", "-c", f'hostname {host} && exec "$@"', "sh", *kvm]


class Route:
    """A guest that goes from host to host. Each hop tells what changed."""

    def __init__(self, start, work, policy, *steps, cpus=1):
        self.start, self.work, self.cpus, self.hops = start, work, cpus, 0
        self.policy = pathlib.Path(work, "policy.yaml")
        self.policy.write_text("version: 1\n" + policy)
        self.params = f"msrs cpus={cpus} do={','.join(steps)}"
        self.seen, self.here = "", None

    def report(self):
        return json.loads(pathlib.Path(self.work, f"{self.here.name}.report").read_text())

    def values(self):
        """What the guest read since the last call."""
        self.seen, text = self.seen + self.here.console(), self.here.console()
        return outcomes(text)

    def to(self, name, host, mode="filter"):
        """The guest is on @host, called @name, from here on. Return: (exit code, the change in words or the refusal)"""
        facts, kvm = fact_file(self.work, f"host{self.hops}", host, mode)
        kvm = named(name, kvm)
        words = ["--mitigation-report", f"{self.work}/g{self.hops}.report"]
        if not self.here:
            self.here = self.start("g0", facts, kvm, self.policy, *words, params=self.params, cpus=self.cpus)
            self.hops = 1
            self.here.wait_console("msrs wait 1\n")
            return 0, ""
        uri = f"unix:{self.work}/m{self.hops}"
        there = self.start(f"g{self.hops}", facts, kvm, self.policy, *words, incoming=uri)
        moving.wait_listening(there)
        code, events, err = moving.migrate(self.here, uri)
        if code == moving.MOVED:
            open_gate(there, self.hops)
            self.here = there
        self.hops += 1
        if code != moving.MOVED:
            return code, err
        change = events[-1].get("x-testudo-mitigation", "")
        assert not change or f"mitigations of the guest that came: {change}\n" in there.log(), there.log()
        return code, change


def test_words_over_hops(start, work):
    """Ice Lake, Sapphire Rapids, Ice Lake, Emerald Rapids: what was held is what was held on the host before."""
    reads = [f"0.r.{HW}", "0.r.48", f"0.r.{CTL}"]
    r = Route(start, work, "", f"0.r.{ENUM}", f"0.w.{CTL}.1", "0.w.48.1", "0.wait.1", *reads, "0.wait.2", *reads,
              "0.wait.3", *reads)
    r.to("icx1", "icx")
    why = "guest reported the short sequence"
    assert r.to("spr3", "spr") == (0, "BHI_DIS_S was not held on icx1 (Ice Lake-SP), is held on spr3 "
                                      f"(Sapphire Rapids): {why}")
    r.here.wait_console("msrs wait 2\n")
    assert r.values() == [0x401, 1, 1]
    assert r.to("icx2", "icx") == (0, "BHI_DIS_S was held on spr3 (Sapphire Rapids), is not held on icx2 "
                                      f"(Ice Lake-SP): {why}")
    r.here.wait_console("msrs wait 3\n")
    assert r.values() == [1, 1, 1]
    # the promise of the host before the last one does not count as held there
    assert r.to("emr1", "emr", "vcpu") == (0, "BHI_DIS_S was not held on icx2 (Ice Lake-SP), is held on emr1 "
                                              f"(Emerald Rapids): {why}")
    assert r.here.end() == 0
    assert r.values() == [0x401, 1, 1]


def test_nothing_changed_says_nothing(start, work):
    r = Route(start, work, "", f"0.r.{ENUM}", f"0.w.{CTL}.1", "0.wait.1", f"0.r.{HW}", "0.wait.2", f"0.r.{HW}")
    r.to("spr1", "spr")
    assert r.to("spr2", "spr", "rfc-virtual-msrs") == (0, "")
    r.here.wait_console("msrs wait 2\n")
    assert r.to("adl1", "adl", "vcpu") == (0, "")
    assert r.here.end() == 0


def test_each_processor_for_itself(start, work):
    """One reports the short sequence, one that it needs nothing, one nothing."""
    r = Route(start, work, "", f"0.r.{ENUM}", f"0.w.{CTL}.1", f"1.r.{ENUM}", "1.w.48.1", "2.r.48", "0.wait.1",
              *[f"{cpu}.r.{HW}" for cpu in range(3)], *[f"{cpu}.r.48" for cpu in range(3)], cpus=3)
    r.to("icx1", "icx")
    code, change = r.to("spr1", "spr")
    assert code == 0 and "BHI_DIS_S was not held on icx1" in change
    assert r.here.end() == 0
    assert r.values() == [0x400, 1, 0x400, 0, 1, 0]
    assert [v["held"]["at-1"] for v in r.report()["vcpus"]] == [["BHI_DIS_S"], [], ["BHI_DIS_S"]]


def test_refused_on_the_way_and_then_taken_elsewhere(start, work):
    """What an earlier host held is not given up for a host that is as weak as the one that it is offered from."""
    r = Route(start, work, "incoming-cannot: refuse", "0.wait.1", f"0.r.{HW}", "0.wait.4", f"0.r.{HW}")
    r.to("spr1", "spr")
    code, change = r.to("icx1", "icx")
    assert code == 0 and "is not held on icx1" in change
    for name, host, mode in (("masked1", "masked", "filter"), ("spr2", "spr", "drops")):
        code, err = r.to(name, host, mode)
        assert code == moving.REFUSED and "an earlier host held" in err and "BHI_DIS_S" in err, err
    code, change = r.to("adl1", "adl")
    assert code == 0 and "is held on adl1 (Alder Lake)" in change
    assert r.here.end() == 0
    assert r.values()[-1] == 0x400


@pytest.mark.parametrize("policy, code", [("", moving.MOVED), ("strict: on", moving.REFUSED)])
def test_between_hosts_that_are_equally_weak(start, work, policy, code):
    """Local hand-over, or a pair of such hosts: nothing gets worse. strict does not even let it boot."""
    r = Route(start, work, policy, "0.wait.1", f"0.r.{HW}")
    if policy:
        r.policy.write_text("version: 1\n")
    r.to("masked1", "masked")
    r.policy.write_text("version: 1\n" + policy)
    found, text = r.to("masked2", "masked")
    assert found == code, text
    if code == moving.REFUSED:
        assert "migration row 4" in text and "as it was" in text
        return
    assert r.here.end() == 0
    step = [s for s in r.report()["vcpus"][0]["steps"] if s["table"] == "migration" and s["row"] == 4]
    assert step[0]["verdict"] == "warn" and "as it was" in step[0]["reason"]


def test_a_long_name(start, work):
    r = Route(start, work, "", "0.wait.1", f"0.r.{HW}")
    r.to("x" * 64, "icx")
    code, change = r.to("y" * 64, "spr")
    assert code == 0 and f"on {'x' * 64} (Ice Lake-SP)" in change and f"on {'y' * 64} (Sapphire" in change


def test_a_report_on_the_way(start, work):
    """The guest reports after the handshake: what the destination holds in the end is what is told at the end."""
    policy = pathlib.Path(work, "policy.yaml")
    policy.write_text("version: 1\n" + POLICIES["not unasked"])
    (from_facts, from_kvm), (to_facts, to_kvm) = fact_file(work, "from", "icx", "filter"), fact_file(
        work, "to", "spr", "filter")
    a = start("a", from_facts, from_kvm, policy,
              params=f"msrs do=0.wait.1,0.r.{ENUM},0.w.{CTL}.1,0.wait.2,0.r.{HW}")
    a.wait_console("msrs wait 1\n")
    b = start("b", to_facts, to_kvm, policy, incoming=f"unix:{work}/b")
    moving.wait_listening(b)

    def report(kind, data):
        if kind == faulty.VERDICT:
            open_gate(a, 1)
            a.wait_console("msrs wait 2\n")
        return data

    with faulty.Proxy(f"unix:{work}/m", f"unix:{work}/b", at=report):
        code, events, err = moving.migrate(a, f"unix:{work}/m")
    assert code == moving.MOVED, err
    change = events[-1]["x-testudo-mitigation"]
    assert changes(change) == {"BHI_DIS_S": (False, True)} and change.endswith("guest reported the short sequence")
    assert f"mitigations of the guest that came: {change}\n" in b.log()
    open_gate(b, 2)
    assert b.end() == 0, b.log()
    assert outcomes(b.console())[-1] == 0x400
