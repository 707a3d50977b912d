"""The commands of tools/: each says how it is used, and does nothing for words that it does not know."""

import pathlib
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
TOOLS = sorted(path for path in (TOP / "tools").iterdir() if path.is_file())

# Words that are wrong, by tool: what it says of them. One that has no row here has to be given one.
WRONG = {
    "build": [([], "folder"), (["--wrong"], "folder")],
    "coverage": [(["wrong"], "wrong"), (["unit", "--wrong"], "--wrong")],
    "demo": [(["--wrong"], "--wrong"), (["--emulated", "more"], "more")],
    "lab": [([], "no command"), (["wrong"], "wrong"), (["prepare", "more"], "prepare"), (["sh"], "kind"),
            (["sh", "no-such-kind"], "amd-stock"), (["sh", "amd-stock", "a", "b"], "one command"), (["kinds", "x"], "kinds")],
    "room": [([], "suite"), (["trixie", ""], "suite"), (["sarge", "", "true"], "bookworm"), (["trixie", "buidl", "true"], "buidl")],
    "setup": [([], "no package set"), (["buidl"], "buidl"), (["build", "--wrong"], "--wrong")],
    "test": [(["wrong"], "wrong"), (["quick", "--wrong"], "--wrong")],
}


def run(tool, *words):
    """Started from elsewhere, without a terminal. What does something in place of answering is cut short."""
    return subprocess.run([tool, *words], cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def test_each_has_rows():
    assert {path.name for path in TOOLS} == set(WRONG)


@pytest.mark.parametrize("word", ["--help", "-h"])
@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.name)
def test_usage(tool, word):
    p = run(tool, word)
    assert p.returncode == 0 and p.stderr == "", p
    assert p.stdout.startswith(f"usage: tools/{tool.name}"), p.stdout
    assert len(p.stdout.splitlines()) > 2 and "set -eu" not in p.stdout, p.stdout
    for line in p.stdout.splitlines():
        assert not line.startswith("#"), line


@pytest.mark.parametrize("tool, words, says", [(name, words, says) for name, rows in WRONG.items() for words, says in rows],
                         ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_wrong_words(tool, words, says):
    p = run(TOP / "tools" / tool, *words)
    assert p.returncode == 2 and p.stdout == "", p
    first, rest = p.stderr.split("\n", 1)
    assert first.startswith(f"{tool}: ") and says in first, p.stderr
    assert rest.startswith(f"usage: tools/{tool}"), p.stderr


def test_kinds_of_hosts_are_documented():
    kinds = run(TOP / "tools" / "lab", "kinds").stdout.split()
    text = (TOP / "docs" / "lab.md").read_text()
    assert "amd-stock" in kinds and "intel-stock" in kinds
    assert [kind for kind in kinds if f"| `{kind}` |" not in text] == []
