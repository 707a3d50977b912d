"""One word for one thing: docs/mitigation.md has the table of words, which this reads; and one style of keys."""

import itertools
import json
import os
import pathlib
import re
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TESTUDO_BUILD", TOP / "build")).resolve()
TESTUDO = BUILD / "vmm" / "testudo"
HOSTS = TOP / "tests" / "data" / "hosts"

KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# what others call so, and what is not said of bits
ALLOWED = re.compile(r"force-spec-ctrl|force-(?:unaware|when-shown)|can-force|--force|^force$|cancel[|, a-z]* force|"
                     r"(?:on-timeout )?(?:cancel\|)force|on-timeout force|KVM_CAP_FORCE|kvm-cap-force")
# the files that make JSON
JSON_SOURCES = ["vmm/guest/mitigation_report.c", "vmm/guest/control_commands.c", "vmm/cmd/list.c", "policy/explain.c", "policy/summary.c",
                "policy/facts.c"]


def literals(path):
    """The strings of a C file, those that stand beside each other joined."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"#include[^\n]*", "", text)
    for joined in re.findall(r'(?:"(?:[^"\\\n]|\\.)*"\s*)+', text):
        yield "".join(re.findall(r'"((?:[^"\\\n]|\\.)*)"', joined))


def words_not_to_use():
    table = (TOP / "docs" / "mitigation.md").read_text().split("## Words\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*\|$", table, re.M)]
    assert rows[0] == ["word", "what it means", "not"] and len(rows) > 10
    words = [word.strip("` ") for row in rows[2:] for word in row[2].split(",") if row[2] and not row[2].startswith("allow")]
    assert {"force", "forced", "software sequence", "can_force"} <= set(words)
    return words + ["with forced bits", "forces", "forcing"]


def test_what_testudo_says():
    """In every string of the program."""
    words = words_not_to_use()
    wrong = []
    for room in ("msr", "policy", "vmm", "control", "migration"):
        paths = sorted((TOP / room).rglob("*.c"))
        assert paths
        for path in paths:
            for text in literals(path):
                plain = ALLOWED.sub("", text)
                wrong += [f"{path.name}: '{word}' in: {text}" for word in words
                          if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", plain)]
    assert not wrong


def test_what_the_documents_say():
    words = words_not_to_use()
    text = (TOP / "docs" / "mitigation.md").read_text()
    table = text.split("## Words\n")[1].split("\n## ")[0]
    text = text.replace(table, "").split("## Sources")[0] + (TOP / "policy" / "default.yaml").read_text()
    text = ALLOWED.sub("", text)
    wrong = [word for word in words if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)]
    assert not wrong


def keys(value):
    if isinstance(value, dict):
        yield from value
        yield from itertools.chain.from_iterable(map(keys, value.values()))
    elif isinstance(value, list):
        yield from itertools.chain.from_iterable(map(keys, value))


@pytest.mark.parametrize("path", JSON_SOURCES)
def test_keys_in_the_sources(path):
    """None with an underscore: what is a word of its own and looks so is a key, or a word of QEMU's."""
    qemu = {"system_powerdown", "system_reset", "x86_64"}
    found = {text for text in literals(TOP / path) if re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", text)} - qemu
    assert not found


@pytest.mark.parametrize("words", [
    [], ["--from", "icelake-server.json", "--guest", "reported=short"], ["--guest", "reported=none"],
])
@pytest.mark.parametrize("host", ["sapphire-rapids.json", "icelake-server.json", "epyc-7713.json"])
def test_keys_that_are_printed(host, words):
    words = [str(HOSTS / word) if word.endswith(".json") else word for word in words]
    r = subprocess.run([TESTUDO, "policy", "explain", "--json", "--host", HOSTS / host, *words], capture_output=True, text=True,
                       check=False)
    if r.returncode == 2:
        assert "cannot report" in r.stderr, r.stderr  # the mitigations of AMD's parts know no reports
        return
    said = json.loads(r.stdout)
    assert said["backend"]["can-hold"] is not None and "short-sequence-adequate" in said["decision"]
    assert [key for key in keys(said) if not KEBAB.fullmatch(key)] == []


def test_facts_of_hosts():
    for path in HOSTS.glob("*.json"):
        facts = json.loads(path.read_text())
        for names in ("vulnerabilities", "kvm-cpuid"):  # as sysfs calls them; leaves, by number
            facts.pop(names, None)
            facts.get("info", {}).pop(names, None)
        assert [key for key in keys(facts) if not KEBAB.fullmatch(key)] == [], path.name
