"""Completion in bash: after each option and command what belongs there."""

import os
import re
import subprocess

import pytest

import harness
import silent

pytestmark = pytest.mark.nokvm

SCRIPT = harness.ROOT / "docs" / "testudo.bash"
COMMANDS = {"run", "list", "stat", "pause", "resume", "stop", "migrate", "save", "host", "policy", "version", "help"}
DRIVER = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _testudo; printf "%s\\n" "${COMPREPLY[@]}"'


def complete(cwd, line):
    """What is offered at the end of @line, of which the shell makes words as readline does."""
    words = [re.findall(r"[=:]|[^=:]+", word) if word else [""] for word in line.split(" ")]
    words = [part for word in words for part in word]
    if line[-1] in "=:":
        words[-1:] = [line[-1]]
    env = {**os.environ, "PATH": f"{harness.TESTUDO.parent}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(cwd)}
    r = subprocess.run(["bash", "-c", DRIVER, "bash", str(SCRIPT), *words], cwd=cwd, env=env, capture_output=True, text=True,
                       check=False, timeout=harness.patience())
    assert r.returncode == 0 and r.stderr == "", r.stderr
    return {word.strip() for word in r.stdout.split("\n")} - {""}


@pytest.fixture(autouse=True)
def files(work):
    for name in ("fleet.yaml", "pool.yml", "spr.json", "vmlinuz", "root.img", "web.snap"):
        with open(f"{work}/{name}", "w", encoding="ascii"):
            pass
    os.mkdir(f"{work}/hosts")


def listed(*words):
    return subprocess.run([harness.TESTUDO, *words], capture_output=True, text=True, check=True).stdout


def test_commands(work):
    assert complete(work, "testudo ") == COMMANDS | {"--help", "--version"}
    assert complete(work, "testudo help st") == {"stat", "stop"}
    assert complete(work, "testudo policy ") == {"check", "explain"}
    assert {line.split()[0] for line in re.findall(r"^  (\S.*)", listed("help"), re.M)} == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS - {"version", "help", "policy"}) + ["policy explain"])
def test_every_option_of_the_help(work, command):
    text = listed(command.split()[0], "--help")
    named = set(re.findall(r"^  (?:-\w, |    |  )?(--[\w-]+)", text, re.M))
    assert "--help" in named and complete(work, f"testudo {command} --") == named


@pytest.mark.parametrize("prefix", ["run --cpu ", "run --cpu=", "run -c 2 --cpu ", "policy explain --cpu "])
def test_cpu_models(work, prefix):
    offered = complete(work, f"testudo {prefix}")
    assert {"host", "x86-64-v3", "icelake-server", "sapphire-rapids", "sapphire-rapids-v1", "sapphire-rapids-v2",
            "SapphireRapids", "EPYC-Rome", "help"} <= offered, offered
    assert not offered & {"fleet.yaml", "spr.json", "vmlinuz", "hosts"}
    for name in offered - {"help"}:  # what is offered is taken
        r = subprocess.run([harness.TESTUDO, "run", "--cpu", name, "--name", "no name", "k"], capture_output=True, text=True,
                           check=False)
        assert "--name" in r.stderr and "is not a known CPU" not in r.stderr, r.stderr


def test_cpu_names_are_all_known(work):
    """Each model and each alias of the tables."""
    offered = complete(work, "testudo run --cpu ")
    for table, call in (("guest_models", "GUEST_MODEL"), ("guest_aliases", "GUEST_ALIAS")):
        names = re.findall(rf'^{call}\("([^"]+)"', (harness.ROOT / "cpuid" / f"{table}.def").read_text(), re.M)
        assert names and set(names) <= offered, set(names) - offered


def test_cpu_features_and_templates(work):
    assert complete(work, "testudo run --cpu icelake-server,-avx512b") == {"icelake-server,-avx512bw"}
    assert {"host,+vmx", "host,-vmx"} <= complete(work, "testudo run --cpu host,")
    assert complete(work, "testudo run --cpu ./s") == {"./spr.json"}


@pytest.mark.parametrize("line,offered", [
    ("run --policy ", {"fleet.yaml", "pool.yml", "hosts"}),
    ("run --policy=f", {"fleet.yaml"}),
    ("policy check ", {"fleet.yaml", "pool.yml", "hosts"}),
    ("policy check fleet.yaml ", {"fleet.yaml", "pool.yml", "hosts"}),
    ("policy explain --host ", {"spr.json", "hosts"}),
    ("policy explain --from ", {"spr.json", "hosts"}),
    ("run --host-facts ", {"spr.json", "hosts"}),
    ("policy explain --policy v", {"vmlinuz"}),  # none that ends so: any
    ("run v", {"vmlinuz"}),
    ("run -k v", {"vmlinuz"}),
    ("run -d r", {"root.img"}),
    ("run -d root.img,", {"root.img,ro", "root.img,direct", "root.img,serial=", "root.img,format=raw"}),
    ("run --serial ", {"stdio", "file:", "unix:", "pty", "none"}),
    ("run --serial file:w", {"web.snap"}),  # the shell has "file:" already
    ("run --incoming ", {"tcp:", "unix:", "fd:", "file:"}),
    ("run --incoming file:w", {"web.snap"}),
    ("run --incoming=unix:w", {"web.snap"}),
    ("run --incoming tcp:", set()),
    ("run --name ", set()),
    ("run -m ", set()),
    ("run --mem=", set()),
    ("migrate web ", {"tcp:", "unix:"}),
    ("migrate --channels 2 web ", {"tcp:", "unix:"}),
    ("migrate web unix:w", {"web.snap"}),
    ("migrate web unix:x --on-timeout ", {"cancel", "force", "throttle"}),
    ("save web ", {"fleet.yaml", "pool.yml", "spr.json", "vmlinuz", "root.img", "web.snap", "hosts"}),
    ("policy explain --guest ", {"reported=", "sees=", "unaware"}),
    ("policy explain --guest reported=s", {"short", "sees="}),
    ("policy explain --guest reported=short,r", {"short,retpoline"}),
    ("policy explain --guest sees=bhi_c", {"bhi_ctrl"}),
    ("list ", set()),
    ("host ", set()),
], ids=lambda x: x if isinstance(x, str) else "")
def test_values(work, line, offered):
    assert complete(work, f"testudo {line}") == offered


@pytest.mark.parametrize("command", ["stat", "pause", "resume", "stop", "migrate", "save"])
def test_guests_that_run(work, command):
    answers = {"query-status": {"status": "running", "running": True}, "query-memory-size-summary": {"base-memory": 1 << 20},
               "query-cpus-fast": [{}]}
    with silent.guest(work, name="web", answers=answers):
        assert complete(work, f"testudo {command} ") == {"web"}
        assert complete(work, f"testudo {command} x") == set()
        assert "web" not in complete(work, f"testudo {command} web ")
    assert complete(work, f"testudo {command} ") == set()
