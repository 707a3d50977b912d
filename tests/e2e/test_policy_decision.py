"""What testudo policy explain decides where a second reading of the tables found it wrong, and in which words."""

import json
import pathlib

import pytest

import harness
from harness import BAD_INPUT, OFF, USAGE

pytestmark = pytest.mark.nokvm

DATA = harness.ROOT / "tests" / "data"
REFUSED = 4
BHI, RRSBA = 0x400, 0x40


def words(line):
    """Words of a command line; names of files stand for those in tests/data."""
    found = []
    for word in line.split():
        paths = [DATA / folder / word for folder in ("decision", "hosts")]
        found += [str(p) for p in paths if p.is_file()][:1] or [word]
    return found


@pytest.fixture
def explain(work):
    def run(line, *more):
        r = harness.run_raw(["policy", "explain", "--json", *words(line), *more], work)
        assert r.code in (OFF, REFUSED) and r.err == "", str(r)
        answer = json.loads(r.out)
        assert (answer["decision"]["verdict"] == "refuse") == (r.code == REFUSED), str(r)
        return answer

    return run


def held(answer):
    return int(answer["decision"]["value"], 16)


def step(answer, table, row):
    found = [s for s in answer["decision"]["steps"] if (s["table"], s["row"]) == (table, row)]
    assert len(found) <= 1 or table == "migration", found
    return found[0] if found else None


ALLOW, FORCED, WARN, REFUSE = "allow", "allow, with held bits", "warn", "refuse"

DECISIONS = [
    # command line, verdict, value held, (table, row, verdict) that decided

    # a back end that can hold nothing still answers the virtual MSRs: incoming-cannot decides, and the short loop helps
    ("--policy incwarn.yaml --from skl.json --host spr-none.json", WARN, 0, ("migration", 4, WARN)),
    ("--policy incwarnpool.yaml --from skl.json --host spr-none.json", WARN, 0, ("migration", 4, WARN)),
    ("--from skl.json --host spr-none.json", REFUSE, 0, ("migration", 4, REFUSE)),
    ("--policy picxnone.yaml --from skl.json --host icx-none.json", ALLOW, 0, ("bhi", 15, ALLOW)),
    ("--from icx-oldmc.json --host icx-none.json", ALLOW, 0, ("bhi", 15, ALLOW)),

    # a control that is enumerated without SPEC_CTRL is not the guest's, here or by what a pool leaves of it
    ("--host nospec.json", FORCED, BHI, ("bhi", 9, FORCED)),
    ("--policy pnospec.yaml --host sapphire-rapids.json", FORCED, BHI, ("bhi", 9, FORCED)),
    ("--policy pnospec.yaml --from nospec.json --host sapphire-rapids.json", FORCED, BHI, ("bhi", 9, FORCED)),

    # "tighten": that the guest declined takes nothing away, in RRSBA row 10 either
    ("--policy tight.yaml --from skl.json --host icx-none.json --guest reported=none", REFUSE, 0, ("rrsba", 10, REFUSE)),
    ("--policy tight.yaml --from skl.json --host icx-oldmc.json --guest reported=none", REFUSE, 0, ("rrsba", 10, REFUSE)),
    ("--policy strict.yaml --from skl.json --host icx-oldmc.json --guest reported=none", ALLOW, 0, ("rrsba", 10, ALLOW)),

    # no guest of an unknown vendor comes to a known one, nor the other way round
    ("--from vendorx.json --host sapphire-rapids.json", REFUSE, 0, ("migration", 9, REFUSE)),
    ("--from sapphire-rapids.json --host vendorx.json", REFUSE, 0, ("migration", 9, REFUSE)),
    ("--from vendorx.json --host epyc-rome.json", REFUSE, 0, ("migration", 9, REFUSE)),

    # microcode that does not say RRSBA is judged as microcode that does
    ("--policy strict.yaml --from skl.json --host icx-oldmc.json", REFUSE, 0, ("rrsba", 10, REFUSE)),
    ("--from skl.json --host icx-oldmc.json", WARN, 0, ("rrsba", 10, WARN)),
    ("--host spr-old-none.json --guest sees=bhi_ctrl", WARN, 0, ("rrsba", 9, WARN)),
    ("--host spr-none.json --guest sees=bhi_ctrl", WARN, 0, ("rrsba", 9, WARN)),
    # a guest that boots there is told, and so copes
    ("--policy strict.yaml --host icx-oldmc.json", ALLOW, 0, ("rrsba", 10, ALLOW)),

    # nothing is warned of that is held after all
    ("--policy fu.yaml --from spr-rfc.json --host sapphire-rapids.json --guest sees=none", FORCED, BHI | RRSBA,
     ("migration", 1, FORCED)),

    # spec-ctrl says of a bit that it is the guest's
    ("--policy bguest.yaml --host sapphire-rapids.json --guest sees=none", WARN, RRSBA, ("bhi", 1, WARN)),
    ("--policy bguest.yaml --host sapphire-rapids.json", ALLOW, 0, ("bhi", 1, ALLOW)),
    ("--policy bguest.yaml --host icelake-server.json", ALLOW, 0, ("bhi", 1, ALLOW)),

    # "cannot" counts for guests that come, too
    ("--policy ci.yaml --from skl.json --host spr-none.json", REFUSE, 0, ("bhi", 13, REFUSE)),
    # held at 0, and the guest is shown the control
    ("--policy amd.yaml --host epyc-rome.json", WARN, 0, ("raw", 4, WARN)),
    ("--policy amd.yaml --host epyc-rome.json --cpu host,-amd_stibp,-amd_ssbd,-ibrs,-spec_ctrl", FORCED, 0,
     ("raw", 4, FORCED)),

    # the CPU that the guest was shown is looked at as the destination does
    ("--from sapphire-rapids.json --host sierra-forest.json", REFUSE, 0, ("migration", 13, REFUSE)),
    ("--from sapphire-rapids.json --host sierra-forest.json --cpu x86-64-v2", ALLOW, 0, None),
]


@pytest.mark.parametrize("line,verdict,value,decisive", DECISIONS, ids=lambda v: v if isinstance(v, str) else "")
def test_decision(explain, line, verdict, value, decisive):
    answer = explain(line)
    assert answer["decision"]["verdict"] == verdict, answer["decision"]
    assert held(answer) == value, answer["decision"]
    if decisive:
        found = step(answer, *decisive[:2])
        assert found and found["verdict"] == decisive[2], answer["decision"]["steps"]


@pytest.mark.parametrize("policy,report,adequate", [
    ("sa1.yaml", "unaware", False),  # not forced unasked on the other host of the pool
    ("sa1.yaml", "none", False),
    ("sa1.yaml", "short", True),
    ("sa2.yaml", "unaware", False),  # held at 0 there
    ("sa2.yaml", "short", False),
    ("sa3.yaml", "unaware", True),
    ("sa3.yaml", "none", False),     # the guest's no counts there
    ("sa3.yaml", "short", True),
])
@pytest.mark.parametrize("host", ["icx-oldmc.json", "icelake-server.json"])
def test_short_is_adequate_on_every_host_of_the_pool(explain, policy, report, adequate, host):
    answer = explain(f"--policy {policy} --host {host} --guest reported={report}")
    assert answer["decision"]["short-sequence-adequate"] is adequate, answer["decision"]


@pytest.mark.parametrize("line", ["--host spr-rfc.json --guest reported=none,sees=ibrs_all",
                                  "--host spr-rfc.json --guest unaware,sees=ibrs_all",
                                  "--policy fu.yaml --host spr-rfc.json --guest sees=none",
                                  "--policy fu.yaml --from icx-oldmc.json --host spr-rfc.json"])
def test_no_report_is_told_that_was_not_made(explain, line):
    """A frozen mask holds in advance what the guest may yet report, and says so."""
    steps = explain(line)["decision"]["steps"]
    assert not [s["reason"] for s in steps if "the guest reports that" in s["reason"]
                or "guest reports retpolines" in s["reason"]]
    frozen = [s["reason"] for s in steps if "may yet report" in s["reason"]]
    assert frozen, steps


def test_a_bit_at_0_on_amd_is_not_promised(explain):
    assert "V_SPEC_CTRL" in step(explain("--policy amd.yaml --host epyc-rome.json"), "raw", 4)["reason"]


ADVICE = [
    # what refuses, by its printed cure, and a policy that takes that
    ("--from skl.json --host spr-none.json", "incoming-cannot: warn", "incoming-cannot: warn"),
    ("--policy strict.yaml --from skl.json --host icx-oldmc.json", "strict: off", "strict: off"),
    ("--policy strict.yaml --from skl.json --host icx-oldmc.json", "pool that names", "strict: on\npool: [icx-oldmc.json]"),
    ("--policy ci.yaml --from skl.json --host spr-none.json", "cannot: warn", "incoming-cannot: warn"),
    ("--policy bguest.yaml --host sapphire-rapids.json --guest sees=none", "take BHI_DIS_S out", ""),
]


@pytest.mark.parametrize("line,cure,policy", ADVICE, ids=lambda v: v[:40])
def test_the_cure_helps(explain, work, line, cure, policy):
    before = explain(line)["decision"]
    assert any(cure in s.get("cure", "") for s in before["steps"]), before["steps"]
    path = pathlib.Path(work, "cured.yaml")
    path.write_text(f"version: 1\n{policy}\n".replace("[icx", f"[{DATA}/decision/icx"))
    after = explain(line, "--policy", str(path))["decision"]  # the last one counts
    order = [ALLOW, FORCED, WARN, REFUSE]
    assert order.index(after["verdict"]) < order.index(before["verdict"]), after


def test_a_warning_does_not_advise_what_is_set(explain):
    """"cannot: warn with strict: off lets it run as it is" is for the refused."""
    for s in explain("--host spr-none.json --guest sees=none")["decision"]["steps"]:
        assert s["verdict"] != REFUSE and "strict: off" not in s.get("cure", ""), s


# ---- the guest's words ----

@pytest.mark.parametrize("guest,says", [
    ("reported=short,retpoline,none", "reported=none and reported=unaware each stand alone"),
    ("reported=none,short", "stand alone"),
    ("reported=unaware,short", "stand alone"),
    ("reported=none,unaware", "stand alone"),
    ("unaware,retpoline", "stand alone"),
    ("sees=none,rrsba", "sees=none stands alone"),
    ("sees=rrsba,none", "sees=none stands alone"),
])
def test_words_that_exclude_each_other(work, guest, says):
    r = harness.run_raw(["policy", "explain", *words("--host skl.json"), "--guest", guest], work)
    r.expect_error(USAGE, "--guest", says)
    # nor in two options
    first, _, rest = guest.rpartition(",")
    key = "" if "=" in rest else guest.split("=")[0] + "=" if "=" in guest else "reported="
    r = harness.run_raw(["policy", "explain", *words("--host skl.json"), "--guest", first, "--guest", key + rest], work)
    r.expect_error(USAGE, "--guest", says)


def test_unaware_needs_no_key(explain):
    assert explain("--host spr-rfc.json --guest unaware") == explain("--host spr-rfc.json --guest reported=unaware")
    assert explain("--host spr-rfc.json --guest unaware,sees=rrsba") == explain("--host spr-rfc.json --guest sees=rrsba")


# ---- what a run checks ----

def template(work, **what):
    path = pathlib.Path(work, "t.json")
    path.write_text(json.dumps(what))
    return str(path)


@pytest.mark.parametrize("index", ["0x48", "0x49", "0x10", "0xc0000080", "0x50000001", "0x4b564d01"])
def test_an_msr_that_is_not_a_templates_to_set(work, index):
    path = template(work, msr_modifiers=[{"addr": index, "bitmap": "0b1"}])
    r = harness.run_raw(["policy", "explain", *words("--host sapphire-rapids.json"), "--cpu", path], work)
    r.expect_error(BAD_INPUT, "msr_modifiers", index, "not a template's to set")


@pytest.mark.parametrize("facts", ["decision/sapphire-rapids.json", "hosts/sapphire-rapids-3408u.json"])
@pytest.mark.parametrize("highest", [0x6, 0xa, 0xb, 0x1f])
def test_a_template_with_too_low_a_highest_leaf(work, facts, highest):
    """Whatever the file of the host tells of its CPU, what a run refuses is refused."""
    path = template(work, cpuid_modifiers=[{"leaf": "0x0", "subleaf": "0x0", "flags": 0, "modifiers": [
        {"register": "eax", "bitmap": f"0b{highest:032b}"}]}])
    r = harness.run_raw(["policy", "explain", "--host", DATA / facts, "--cpu", path], work)
    if highest < 0xb:
        r.expect_error(BAD_INPUT, f"EAX is {highest:#x}", "0xb or more")
    else:
        assert r.code == OFF, r


@pytest.mark.parametrize("cpu,says", [
    ("host,-hypervisor", "-hypervisor: every guest has it"), ("icelake-server,-x2apic", "-x2apic: every guest has it"),
    ("host,+vmx", "+vmx: the policy hides it; set nested: shown")])
@pytest.mark.parametrize("facts", ["sapphire-rapids-w7.json"])
def test_words_that_something_else_decides(work, facts, cpu, says):
    """As in a run: asked for, and not silently left out."""
    r = harness.run_raw(["policy", "explain", *words(f"--host {facts}"), "--cpu", cpu], work)
    r.expect_error(USAGE, says)
    path = pathlib.Path(work, "p.yaml")
    path.write_text("version: 1\nnested: shown\n")
    r = harness.run_raw(["policy", "explain", *words(f"--host {facts}"), "--policy", path, "--cpu", cpu], work)
    assert (r.code == OFF) == ("vmx" in cpu), str(r)


def test_a_template_that_is_overruled_is_warned_of(work):
    modifiers = [{"register": "ecx", "bitmap": "0b0xxxxxxxxx1xxxxxxxxxxxxxxxxxxxxx"}, {"register": "edx", "bitmap": "0b1x"}]
    path = template(work, cpuid_modifiers=[{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": modifiers}])
    r = harness.run_raw(["policy", "explain", *words("--host sapphire-rapids-w7.json"), "--cpu", path], work)
    assert r.code == OFF and len(r.log) == 1 and "0x1.0 ECX: " in r.log[0] and "EDX" not in r.log[0], str(r)


def test_what_the_guest_cannot_reach_is_not_shown(work):
    """Sub-leaf 2 of leaf 7 above the highest sub-leaf that leaf 7 tells: the controls are there, out of reach."""
    facts = json.loads((DATA / "decision" / "sapphire-rapids.json").read_text())
    facts["kvm-cpuid"] = {"0": "0x0000001f 0x756e6547 0x6c65746e 0x49656e69", "7.0": "0x00000002 0x00000000 0x00000000 0xafc14432",
                          "7.2": "0x00000000 0x00000000 0x00000000 0x0000003f"}
    host = pathlib.Path(work, "whole.json")
    host.write_text(json.dumps(facts))
    path = template(work, cpuid_modifiers=[{"leaf": "0x7", "subleaf": "0x0", "flags": 1, "modifiers": [
        {"register": "eax", "bitmap": "0b" + 31 * "0" + "1"}]}])
    for cpu, shown in (("host", 0x3f), (path, 0)):
        r = harness.run_raw(["policy", "explain", "--json", "--host", str(host), "--cpu", cpu], work)
        assert r.code == OFF, str(r)
        answer = json.loads(r.out)
        assert int(answer["guest"]["cpuid-7-2-edx"], 16) == shown, answer["guest"]
        assert held(answer) == (0 if shown else BHI), answer["decision"]


@pytest.mark.parametrize("policy,verdict", [("", WARN), ("cannot: refuse\n", REFUSE), ("strict: on\n", REFUSE)])
@pytest.mark.parametrize("nested", ["shown", "hidden"])
def test_nested(explain, work, nested, policy, verdict):
    """A guest that is shown VMX and not SPEC_CTRL has no barrier before its own guests: as testudo run decides."""
    path = pathlib.Path(work, "n.yaml")
    path.write_text(f"version: 1\nnested: {nested}\n{policy}")
    answer = explain("--host nospec.json", "--policy", str(path))
    found = step(answer, "nested", 1)
    assert (found["verdict"] if found else None) == (verdict if nested == "shown" else None), answer["decision"]
    assert not step(explain("--host sapphire-rapids.json", "--policy", str(path)), "nested", 1)


NESTED_HOSTS = {"amd": "epyc-9334-linux-6.12", "intel": "sapphire-rapids-3408u-linux-6.12"}
NOTHING = (None, None, None, None)
# vendor, kernel, what its KVM says (None: nothing), sysfs; row and verdicts by default, with cannot: refuse and with strict
KERNELS = [
    ("amd", "6.12", None, "conditional", 2, WARN, REFUSE, REFUSE), ("amd", "6.16", None, "conditional", *NOTHING),
    ("amd", "6.12", True, "conditional", *NOTHING), ("amd", "6.16.1", False, "conditional", 6, WARN, REFUSE, REFUSE),
    ("amd", None, None, "conditional", 4, WARN, WARN, REFUSE),
    ("intel", "6.1", None, "conditional", 3, WARN, WARN, REFUSE), ("intel", "4.18", None, "conditional", 3, WARN, WARN, REFUSE),
    ("intel", "4.17", None, "conditional", *NOTHING), ("intel", "6.1.13", None, "conditional", 3, WARN, WARN, REFUSE),
    ("intel", "6.1.192", None, "conditional", *NOTHING), ("intel", "6.0", None, "conditional", 3, WARN, WARN, REFUSE),
    ("intel", "6.2", None, "conditional", *NOTHING), ("intel", "6.1.192", None, "disabled", 5, WARN, REFUSE, REFUSE),
    ("intel", "6.15", None, "disabled", *NOTHING), ("intel", "6.1.13", True, "conditional", *NOTHING),
    ("intel", "6.1.192", False, "conditional", 6, WARN, REFUSE, REFUSE),
]


@pytest.mark.parametrize("vendor,kernel,says,ibpb,row,plain,cannot,strict", KERNELS)
def test_nested_by_the_host_kernel(work, vendor, kernel, says, ibpb, row, plain, cannot, strict):
    """What a fact file says of the kernel and its KVM decides; with nested: hidden, nothing of it is told."""
    facts = json.loads((DATA / "hosts" / f"{NESTED_HOSTS[vendor]}.json").read_text())
    facts.pop("barriers", None)
    if kernel:
        facts["barriers"] = {"per-vm": says is not None, "ibpb": ibpb, "kernel": kernel}
    if says is not None:
        facts["barriers"]["nested-exit"] = says
    pathlib.Path(work, "host.json").write_text(json.dumps(facts))
    for words, verdict in (("", plain), ("cannot: refuse\n", cannot), ("strict: on\n", strict)):
        for nested in ("shown", "hidden"):
            pathlib.Path(work, "n.yaml").write_text(f"version: 1\nnested: {nested}\n{words}")
            r = harness.run_raw(["policy", "explain", "--json", "--host", f"{work}/host.json", "--policy", f"{work}/n.yaml"],
                                work)
            steps = {s["row"]: s["verdict"] for s in json.loads(r.out)["decision"]["steps"] if s["table"] == "nested"}
            assert steps == ({row: verdict} if row and nested == "shown" else {}), r
            assert verdict != REFUSE or nested == "hidden" or r.code == 4, r


def test_fact_files_of_earlier_releases_and_nested_guests(work):
    """They do not tell the kernel; a strict policy refuses, and says what to do about it."""
    host = DATA / "hosts" / f"{NESTED_HOSTS['intel']}.json"
    assert "barriers" not in json.loads(host.read_text())
    policy = pathlib.Path(work, "n.yaml")
    policy.write_text("version: 1\nnested: shown\nstrict: on\n")
    r = harness.run_raw(["policy", "explain", "--host", host, "--policy", policy], work)
    text = " ".join(r.out.split())
    assert r.code == 4 and "nested row 4: refuse" in text, r
    assert "cure: make the fact file anew with testudo host --json, or set nested: hidden; strict: off lets it run" in text, r


LEAVES = {"0": "0x0000001f 0x756e6547 0x6c65746e 0x49656e69", "1": "0x000806f8 0x00000000 {ecx1} 0xbfebfbff",
          "7.0": "0x00000002 0xd18f07a9 0x00000000 0xac000000", "7.2": "0x00000000 0x00000000 0x00000000 0x00000000",
          "d.0": "0x00000007 0x00000340 0x00000340 0x00000000", "80000000": "0x80000008 0x00000000 0x00000000 0x00000000",
          "80000008": "0x000039{phys} 0x00000000 0x00000000 0x00000000"}


@pytest.mark.parametrize("ecx1,phys,missing", [
    ("0x77fefbff", "34", None), ("0x7ffefbff", "34", None), ("0x75fefbff", "34", "aes"),
    ("0x77fefbff", "2e", "52 bits of physical address (46 here)")])
def test_all_of_the_cpu_is_compared_where_files_tell_it(explain, work, ecx1, phys, missing):
    facts = json.loads((DATA / "decision" / "sapphire-rapids.json").read_text())
    facts["facts"].update({"kvm-cpuid-7-0-edx": "0xac000000", "kvm-cpuid-7-2-edx": "0x0"})
    paths = []
    for name, leaves in (("from", {"ecx1": "0x77fefbff", "phys": "34"}), ("here", {"ecx1": ecx1, "phys": phys})):
        facts["kvm-cpuid"] = {key: text.format(**leaves) for key, text in LEAVES.items()}
        paths.append(pathlib.Path(work, name + ".json"))
        paths[-1].write_text(json.dumps(facts))
    answer = explain("", "--from", str(paths[0]), "--host", str(paths[1]))
    found = step(answer, "migration", 13)
    assert answer["cpu-compared"] == "all"
    assert (found is None) == (missing is None), answer["decision"]
    assert not missing or found["reason"].endswith(": " + missing), found


def test_what_was_compared_is_said(work):
    r = harness.run_raw(["policy", "explain", *words("--from skl.json --host icelake-server.json")], work)
    assert "only leaf 7 was compared" in r.out and all(len(line) <= 100 for line in r.lines), str(r)


@pytest.mark.parametrize("cpu,host,missing", [
    ("epyc-milan", "epyc-milan-cloud", None), ("epyc-milan-v2", "epyc-milan-cloud", "erms, fsrm;"),
    ("SapphireRapids", "sapphire-rapids-cloud", None), ("sapphire-rapids-v2", "sapphire-rapids-cloud", "a KVM of at least Linux 6.8"),
    ("sapphire-rapids-v2", "sapphire-rapids-3408u-linux-6.12", None), ("EPYC-Rome", "epyc-7502", None)])
def test_a_named_cpu_on_a_real_machine(work, cpu, host, missing):
    r = harness.run_raw(["policy", "explain", *words(f"--host {host}.json"), "--cpu", cpu], work)
    if missing:
        r.expect_error(BAD_INPUT, cpu, missing)
    else:
        assert r.code == OFF, str(r)


@pytest.mark.parametrize("source,host,missing", [
    ("sapphire-rapids-w7", "sierra-forest-6731e", "avx512_fp16"), ("granite-rapids", "sapphire-rapids-3408u", "mcdt_no"),
    ("epyc-7713", "epyc-milan-cloud", "erms"), ("epyc-7502", "epyc-7713", None)])
def test_a_guest_from_one_real_machine_to_another(explain, source, host, missing):
    answer = explain(f"--from {source}.json --host {host}.json")
    found = step(answer, "migration", 13)
    assert answer["cpu-compared"] == "all"
    assert missing in found["reason"] if missing else found is None, answer["decision"]
