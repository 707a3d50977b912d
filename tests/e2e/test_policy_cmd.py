"""testudo host and testudo policy: what they print, what they refuse, and their exit codes."""

import json
import os

import pytest

import harness
from harness import BAD_INPUT, OFF, USAGE

HOSTS = harness.ROOT / "tests" / "data" / "hosts"
DEFAULT = harness.ROOT / "policy" / "default.yaml"
REFUSED = 4


def host(name):
    return str(HOSTS / f"{name}.json")


@pytest.fixture
def run(work):
    return lambda *words: harness.run_raw(words, work)


@pytest.fixture
def policy(work):
    """policy(text): a policy file with this text"""

    def write(text, name="p.yaml"):
        path = os.path.join(work, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write("version: 1\n" + text)
        return path

    return write


def explain(run, *words, code=OFF):
    """The object that explain --json prints."""
    r = run("policy", "explain", "--json", *words)
    assert r.code == code and r.err == "", str(r)
    return json.loads(r.out)


# ---- host ----

def test_host_is_a_fact_file(run, work):
    r = run("host", "--json")
    assert r.code == OFF and r.err == "", str(r)
    facts = json.loads(r.out)
    assert facts["testudo-host-facts"] == 1
    assert len(facts["facts"]["vendor"]) == 12
    assert facts["info"]["kernel"] == os.uname().release
    path = os.path.join(work, "here.json")
    with open(path, "w", encoding="utf-8") as f:
        f.write(r.out)
    # the file says about this host what this host says itself
    assert explain(run, "--host", path, "--guest", "sees=none") == explain(run, "--guest", "sees=none")


def test_host_text(run):
    r = run("host")
    assert r.code == OFF and r.err == "", str(r)
    starts = [line.split()[0] for line in r.lines if line[:1] != " "]
    assert starts[:2] == ["host", "back"], str(r)
    assert {"microcode", "kernel", "sysfs"} <= set(starts), str(r)


# ---- check ----

@pytest.mark.nokvm
def test_check_the_default(run):
    r = run("policy", "check", DEFAULT)
    assert (r.code, r.out, r.err) == (OFF, f"{DEFAULT}: no mistakes\n", ""), str(r)


@pytest.mark.nokvm
def test_check_several_and_a_pool(run, policy):
    a = policy(f"pool: [{host('icelake-server')}, {host('sapphire-rapids')}]\n", "a.yaml")
    b = policy("bhi: on\n", "b.yaml")
    r = run("policy", "check", a, b)
    assert r.code == OFF and r.lines == [f"{a}: no mistakes, 2 host fact files read", f"{b}: no mistakes"], str(r)


@pytest.mark.nokvm
def test_pool_starts_at_the_policy(run, work, policy):
    os.mkdir(os.path.join(work, "sub"))
    os.symlink(host("icelake-server"), os.path.join(work, "sub", "icx.json"))
    path = policy("pool:\n- icx.json\n", "sub/p.yaml")
    for spelled in (path, "sub/p.yaml"):
        r = run("policy", "check", spelled)
        assert r.code == OFF, str(r)


BAD_POLICIES = [
    # text below "version: 1", what the message has to name
    ("\n\nbhi: maybe\n", ["line 4: bhi: 'maybe' is not a value; give auto, on or off"]),
    ("bih: on\n", ["line 2: 'bih' is not a key; give version, bhi, "]),
    ("bhi: on\nbhi: off\n", ["line 3: bhi: given on line 2 already"]),
    ("bhi: &a on\nrrsba: *a\n", ["line 2: anchor or alias 'a'"]),
    ("bhi: [\n", ["line 2: bhi: a list is not a value"]),
    ("isolation:\n  vcpu-pinning: [0, 0]\n", ["line 3: isolation.vcpu-pinning: CPU 0 is given twice"]),
    ("pool: [none.json]\n", ["host facts", "none.json", "No such file"]),
    ("pool: [p.yaml]\n", ["host facts", "p.yaml", "is a policy"]),
    ("x" * 70000, ["larger than 65536 bytes"]),
]


@pytest.mark.nokvm
@pytest.mark.parametrize("text,names", BAD_POLICIES, ids=lambda v: v[:30] if isinstance(v, str) else "")
def test_bad_policy(run, policy, text, names):
    path = policy(text)
    run("policy", "check", path).expect_error(BAD_INPUT, *names)
    run("policy", "explain", "--policy", path, "--host", host("icelake-server")).expect_error(BAD_INPUT, *names)


@pytest.mark.nokvm
def test_files_that_are_none(run, work):
    for path, name in (("absent", "No such file"), (".", "is a directory"), ("/dev/zero", "is a character device")):
        run("policy", "check", path).expect_error(BAD_INPUT, f"policy {path}:", name)
        run("policy", "explain", "--host", path).expect_error(BAD_INPUT, f"host facts {path}:", name)


@pytest.mark.nokvm
def test_bad_facts(run, work):
    path = os.path.join(work, "h.json")
    good = (HOSTS / "sapphire-rapids.json").read_text()
    for old, new, name in (('"family": 6', '"family": 999', "facts.family: '999' is not a value"),
                           ('"model"', '"modle"', "facts.'modle' is not a key"),
                           ("msr-filter", "wish", "backend.name: 'wish' is not a value"),
                           ("{", "", "line 2")):
        assert old in good
        with open(path, "w", encoding="utf-8") as f:
            f.write(good.replace(old, new, 1))
        for option in ("--host", "--from"):
            words = ["--host", host("icelake-server"), option, path]
            run("policy", "explain", *words).expect_error(BAD_INPUT, "h.json", name)


# ---- usage ----

BAD_USAGE = [
    (["policy"], "check or explain"),
    (["policy", "chekc"], "'chekc'"),
    (["policy", "check"], "no file"),
    (["policy", "check", "--strict", "x"], "--strict"),
    (["policy", "explain", "x"], "'x'"),
    (["policy", "explain", "--hots", "x"], "--hots"),
    (["policy", "explain", "--host"], "--host"),
    (["policy", "explain", "--guest", "aware"], "'aware'"),
    (["policy", "explain", "--guest", ""], "reported="),
    (["policy", "explain", "--guest", "reported=loud"], "short, retpoline, none or unaware"),
    (["policy", "explain", "--guest", "reported=short,bhi_ctrl"], "'bhi_ctrl'"),
    (["policy", "explain", "--guest", "sees=bhi"], "bhi_ctrl, rrsba_ctrl"),
    (["policy", "explain", "--guest", "sees=none,hears=all"], "'hears=all'"),
    (["policy", "explain", "--guest", "reported=short", "--host", host("epyc-rome")], "cannot report"),
    (["policy", "explain", "--cpu", "pentium4000", "--host", host("sapphire-rapids")], "'pentium4000'"),
    (["policy", "explain", "--cpu", "host", "--guest", "sees=none"], "give one"),
    (["policy", "explain", "--kvm-cap-force-spec-ctrl", "0"], "--kvm-cap-force-spec-ctrl: '0'"),
    (["host", "--kvm-cap-force-spec-ctrl", "x"], "--kvm-cap-force-spec-ctrl: 'x'"),
    (["host", "--kvm-cap-force-spec-ctrl"], "wants a value"),
    (["host", "--jsn"], "--jsn"),
    (["host", "x"], "'x'"),
]


@pytest.mark.nokvm
@pytest.mark.parametrize("words,name", BAD_USAGE, ids=lambda v: " ".join(v)[:50] if isinstance(v, list) else "")
def test_bad_usage(run, words, name):
    run(*words).expect_error(USAGE, name)


@pytest.mark.nokvm
@pytest.mark.parametrize("words", [["host", "--help"], ["host", "-h"], ["policy", "--help"], ["policy", "-h"],
                                   ["policy", "check", "--help"], ["policy", "explain", "--help"],
                                   ["help", "host"], ["help", "policy"]], ids=" ".join)
def test_help(run, words):
    r = run(*words)
    assert r.code == OFF and r.err == "" and r.out.startswith("Usage: testudo"), str(r)
    assert all(len(line) <= 100 for line in r.lines)


# ---- explain: hosts that are not here ----

QUESTIONS = [
    # name, words, exit code, bits held at 1
    ("an old part needs nothing", ["--host", "icelake-server"], OFF, set()),
    ("a guest that sees BHI_CTRL owns it", ["--host", "sapphire-rapids"], OFF, set()),
    ("a guest that does not is forced", ["--host", "sapphire-rapids", "--guest", "sees=ibrs_all,rrsba"], OFF,
     {"BHI_DIS_S"}),
    ("the textbook case", ["--from", "icelake-server", "--host", "sapphire-rapids"], OFF, {"BHI_DIS_S"}),
    ("the same, with a report", ["--from", "icelake-server", "--host", "sapphire-rapids", "--guest",
                                 "reported=short,retpoline"], OFF, {"BHI_DIS_S", "RRSBA_DIS_S"}),
    ("the way back of one that was shown it", ["--from", "sapphire-rapids", "--host", "icelake-server"], REFUSED, set()),
    ("the newer part as an older CPU", ["--host", "sapphire-rapids", "--cpu", "icelake-server,-la57"], OFF, {"BHI_DIS_S"}),
    ("the newer part less the control", ["--host", "sapphire-rapids", "--cpu", "host,-bhi_ctrl"], OFF, {"BHI_DIS_S"}),
    ("the newer part as itself", ["--host", "sapphire-rapids", "--cpu", "sapphire-rapids,-la57"], OFF, set()),
    ("a CPU for both is not all: ITS_NO was shown", ["--from", "sapphire-rapids", "--host", "icelake-server", "--cpu",
                                                     "x86-64-v3"], REFUSED, set()),
    ("AMD is not affected", ["--host", "epyc-rome"], OFF, set()),
    ("no guest changes the vendor", ["--from", "icelake-server", "--host", "epyc-rome"], REFUSED, set()),
]


@pytest.mark.nokvm
@pytest.mark.parametrize("name,words,code,bits", QUESTIONS, ids=lambda v: v if isinstance(v, str) else "")
def test_explain(run, name, words, code, bits):
    words = [host(w) if (HOSTS / f"{w}.json").exists() else w for w in words]
    answer = explain(run, *words, code=code)["decision"]
    assert bits <= set(answer["at-1"]), answer
    if not bits:
        assert answer["at-1"] == [], answer
    assert (answer["verdict"] == "refuse") == (code == REFUSED), answer
    assert answer["steps"] and all(s["reason"] and s["row"] > 0 for s in answer["steps"]), answer
    # and the same for people
    r = run("policy", "explain", *words)
    assert r.code == code and r.err == "", str(r)
    assert f"verdict     {answer['verdict']}\n" in r.out, str(r)
    assert all(len(line) <= 100 for line in r.lines), str(r)
    for bit in bits:
        assert bit in r.out


@pytest.mark.nokvm
@pytest.mark.parametrize("cpu,name", [("sapphire-rapids", "bhi_ctrl"), ("epyc-rome", "vendor"), ("./none.json", "none")])
def test_cpu_that_the_host_cannot_show(run, cpu, name):
    words = ["policy", "explain", "--host", host("icelake-server"), "--cpu", cpu]
    run(*words).expect_error(BAD_INPUT, name)


@pytest.mark.nokvm
def test_template_of_a_host_that_is_not_here(run, work):
    """CPUID leaf 7 and ARCH_CAPABILITIES count; other leaves and MSRs are for the host itself to look at."""
    path = os.path.join(work, "t.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"kvm_capabilities": ["9999"], "msr_modifiers": [
            {"addr": "0x10a", "bitmap": "0b1" + 20 * "x"}, {"addr": "0x12345", "bitmap": "0b1"}],
            "cpuid_modifiers": [
                {"leaf": "0x7", "subleaf": "0x2", "flags": 1, "modifiers": [{"register": "edx", "bitmap": "0b0xxxx"}]},
                {"leaf": "0x9999", "subleaf": "0x0", "flags": 0, "modifiers": [{"register": "edx", "bitmap": "0b1"}]}]}, f)
    guest = explain(run, "--host", host("sapphire-rapids"), "--cpu", path)["guest"]
    assert int(guest["cpuid-7-2-edx"], 16) == 0x2f
    assert int(guest["arch-capabilities"], 16) & 1 << 20


@pytest.mark.nokvm
def test_policy_decides(run, policy):
    words = ["--host", host("sapphire-rapids"), "--guest", "sees=ibrs_all"]
    assert "BHI_DIS_S" in explain(run, *words)["decision"]["at-1"]
    off = policy("bhi: off\nrrsba: off\n")
    assert explain(run, "--policy", off, *words)["decision"]["at-1"] == []
    raw = policy("spec-ctrl:\n  ssbd: on\n  stibp: off\n")
    answer = explain(run, "--policy", raw, *words)["decision"]
    assert "SSBD" in answer["at-1"] and answer["at-0"] == ["STIBP"], answer
    on = policy("bhi: on\n")
    assert explain(run, "--policy", on, "--host", host("icelake-server"), code=REFUSED)["decision"]["mask"] == "0x0"


@pytest.mark.nokvm
def test_pool_of_files(run, policy):
    p = policy(f"pool: [{host('icelake-server')}, {host('sapphire-rapids')}]\n")
    pool = explain(run, "--policy", p, "--host", host("icelake-server"))["pool"]
    assert pool["any-long-bhb"] and pool["mixed"] and pool["long-can-hold-bhi"], pool
    # booted on the newer part, it can go to the older one and is forced where it starts
    there = ["--policy", p, "--from", host("sapphire-rapids"), "--host", host("icelake-server")]
    answer = explain(run, *there, "--cpu", "x86-64-v3")
    assert answer["promise"]["value"] == "0x400" and answer["guest"]["cpuid-7-2-edx"] == "0x0", answer
    assert answer["decision"]["verdict"] == "allow", answer
    # which other features the guest is shown is not the pool's matter
    answer = explain(run, *there, code=REFUSED)
    assert answer["promise"]["value"] == "0x400" and answer["guest"]["cpuid-7-2-edx"] == "0x20", answer
    refusals = [s for s in answer["decision"]["steps"] if s["verdict"] == "refuse"]
    assert [s["row"] for s in refusals] == [13] and "avx512_fp16" in refusals[0]["reason"], refusals
    p = policy(f"pool: [{host('epyc-rome')}]\n")
    run("policy", "explain", "--policy", p, "--host", host("icelake-server")).expect_error(BAD_INPUT, "vendor")
    p = policy("pool: short-bhb\n")
    run("policy", "explain", "--policy", p, "--host", host("sapphire-rapids")).expect_error(BAD_INPUT, "short-bhb")
