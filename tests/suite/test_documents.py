"""What docs/mitigation.md shows of policies is true: its samples load, its table has every key."""

import os
import pathlib
import re
import shutil
import subprocess

TOP = pathlib.Path(__file__).resolve().parents[2]
TESTUDO = pathlib.Path(os.environ.get("TESTUDO_BUILD", TOP / "build")).resolve() / "vmm" / "testudo"
TEXT = (TOP / "docs" / "mitigation.md").read_text()
SECTION = TEXT.split("## The policy file\n")[1].split("\n## ")[0]


def samples():
    found = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.M | re.S)
    assert found
    return found


def run(*words, cwd=None):
    return subprocess.run([TESTUDO, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)


def test_samples_are_complete(tmp_path):
    """As they stand, with a pool of the hosts they name; without their version they are refused."""
    for name, host in (("icelake.json", "icelake-server.json"), ("sapphire.json", "sapphire-rapids.json")):
        shutil.copy(TOP / "tests" / "data" / "hosts" / host, tmp_path / name)
    for text in samples():
        (tmp_path / "sample.yaml").write_text(text)
        r = run("policy", "check", "sample.yaml", cwd=tmp_path)
        assert r.returncode == 0 and "no mistakes" in r.stdout, r.stderr
        r = run("policy", "explain", "--policy", "sample.yaml", "--host", "sapphire.json", cwd=tmp_path)
        assert r.returncode == 0 and "verdict     allow" in r.stdout, r
        (tmp_path / "sample.yaml").write_text(re.sub(r"^version:.*$", "", text, flags=re.M))
        r = run("policy", "check", "sample.yaml", cwd=tmp_path)
        assert r.returncode == 3 and "version" in r.stderr, r


def test_table_has_every_key():
    keys = set(re.findall(r"^([\w-]+):", (TOP / "policy" / "default.yaml").read_text(), re.M))
    rows = re.findall(r"^\| (`.*?) \| .* \| .* \|$", SECTION, re.M)
    listed = {key for row in rows for key in re.findall(r"`([\w-]+)`", row)}
    assert {"version", "bhi", "isolation"} <= keys and keys <= listed, keys - listed


def rows_of_source(table):
    """Row numbers in the source's tables; a rule is {row, condition, outcome, ...}."""
    files = {"pool": ["setting"], "bhi": ["bhi"], "rrsba": ["rrsba"]}.get(table, [table])
    rule = r"\{(\d+),\s*\w+,\s*(?:LEAVE|HOLD|CLEAR|CLEAR_WARN|TELL|GIVEN_UP|UNSURE|CANNOT|NEVER),"
    return {int(n) for f in files for n in re.findall(rule, (TOP / "msr" / f"rules_{f}.c").read_text())}


def test_tables_have_the_rows_of_the_source():
    """A row that is in one and not in the other is a promise that nothing keeps, or a verdict that nothing explains."""
    decision = TEXT.split("## The decision\n")[1].split("\n## ")[0]
    tables = re.split(r"^### (\w+).*$", decision, flags=re.M)[1:]
    told = {name.lower(): {int(n) for n in re.findall(r"^\| (\d+) \|", text, re.M)} for name, text in zip(tables[::2], tables[1::2])}
    assert len(told) >= 6, told
    for name, rows in told.items():
        expected = set(range(1, max(rows) + 1))
        assert rows == expected, (name, rows)
        assert rows_of_source(name) == rows, (name, rows_of_source(name) ^ rows)


def test_example_is_what_is_printed():
    """The answer of policy explain that is shown whole."""
    command, _, shown = TEXT.partition("$ testudo policy explain ")[2].partition("```")[0].partition("--guest reported=short\n")
    r = run("policy", "explain", *command.replace("\\", " ").split(), "--guest", "reported=short", cwd=TOP)
    assert r.returncode == 0 and r.stdout == shown, r
