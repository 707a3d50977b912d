"""Words of the command line that are wrong: each is said to be what it is, with the nearest that is right."""

import os
import subprocess

import pytest

import harness
from harness import OFF, USAGE

pytestmark = pytest.mark.nokvm


def refused(*words):
    r = subprocess.run([harness.TESTUDO, *words], capture_output=True, text=True, timeout=harness.patience(), check=False,
                       stdin=subprocess.DEVNULL)
    assert r.returncode == USAGE and r.stdout == "" and len(r.stderr.splitlines()) == 1, r
    return r.stderr


# a command, an option of it that takes no value, one that does
COMMANDS = [
    (["run"], "paused", "policy"), (["list"], "json", None), (["stat"], "json", None), (["pause"], "help", None),
    (["resume"], "help", None), (["stop"], "force", "timeout"), (["migrate"], "dry-run", "channels"),
    (["save"], "force", None), (["host"], "json", "kvm-cap-force-spec-ctrl"), (["policy", "explain"], "json", "guest"),
]


@pytest.mark.parametrize("command,flag,valued", COMMANDS, ids=lambda x: "-".join(x) if isinstance(x, list) else None)
def test_which_of_the_three(command, flag, valued):
    see = f"see testudo {command[0]} --help"
    text = refused(*command, "--xyzzyx")
    assert "option '--xyzzyx' is unknown" in text and "nearest" not in text and see in text, text
    for name in filter(None, (flag, valued)):
        wrong = name[:2] + name[3:]
        text = refused(*command, f"--{wrong}")
        assert f"option '--{wrong}' is unknown; the nearest is --{name};" in text, text
    text = refused(*command, f"--{flag}=x")
    assert f"option '--{flag}=x': --{flag} takes no value; leave out '=x'" in text, text
    assert "option '-z' is unknown" in refused(*command, "-z")
    if valued:
        assert f"option '--{valued}' wants a value" in refused(*command, f"--{valued}")


def test_not_unique():
    text = refused("run", "--no")
    assert "option '--no' is not unique: --no-reboot, --no-rng or --no-sandbox" in text, text
    text = refused("migrate", "g", "tcp:h:1", "--d")
    assert "option '--d' is not unique: --downtime-ms or --dry-run" in text, text


@pytest.mark.parametrize("words,text", [
    (["lsit"], "'lsit' is no command; the nearest is list"),
    (["help", "stpo"], "'stpo' is no command; the nearest is stop"),
    (["xyzzyx"], "'xyzzyx' is no command; see testudo help"),
    (["--foo"], "option '--foo' is unknown"),
    (["--version", "--foo"], "option '--foo' is unknown"),
    (["version", "--foo"], "option '--foo' is unknown"),
    (["help", "--foo"], "option '--foo' is unknown"),
    (["help", "run", "more"], "'more' is one word too many"),
    (["policy", "--foo"], "option '--foo' is unknown"),
    (["policy", "check", "--foo", "f"], "option '--foo' is unknown"),
    (["policy", "chekc"], "'chekc' is no word; give check or explain"),
    (["stop", "--foo", "g"], "option '--foo' is unknown; the nearest is --force"),
    (["list", "--force"], "option '--force' is unknown"),
    (["run", "-verbose", "k"], "give --verbose"),
    (["list", "--quiet=1"], "option '--quiet=1': --quiet takes no value; leave out '=1'"),
    (["list", "--quite"], "option '--quite' is unknown"),
    (["host", "more"], "'more' is one word too many"),
    (["policy", "explain", "more"], "'more' is one word too many"),
    (["stat", "a", "b"], "'b' is one word too many"),
    (["stat", "a/b"], "'a/b': no name for a guest"),
    (["save", "a/b", "f"], "'a/b': no name for a guest"),
    (["migrate", "a/b", "unix:s"], "'a/b': no name for a guest"),
    (["migrate", "g", "no"], "give tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH"),  # and nothing that it would refuse
    (["run", "--incoming", "no"], "give tcp:HOST:PORT, tcp:[IPV6]:PORT, unix:PATH, fd:NUMBER or file:PATH"),
], ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_words(words, text):
    assert text in refused(*words)


@pytest.mark.parametrize("words", [["-q"], ["-qq"], ["--qui"], ["-q", "--json", "--quiet"]], ids=" ".join)
def test_quiet(words, work):
    """As often as one likes, and shortened as every option may be: an empty list has nothing to say then."""
    r = subprocess.run([harness.TESTUDO, "list", *words], capture_output=True, text=True, timeout=harness.patience(), check=False,
                       env={**os.environ, "XDG_RUNTIME_DIR": work})
    assert r.returncode == OFF and r.stderr == "", r


def test_quiet_check():
    r = harness.run_raw(["policy", "check", "-q", harness.ROOT / "policy" / "default.yaml"], "/")
    assert r.code == OFF and r.out + r.err == "", r


@pytest.mark.parametrize("command", [["version"], ["help"], ["list"], ["policy"], ["policy", "check"], []], ids=" ".join)
def test_help(command):
    for word in ("-h", "--help"):
        r = subprocess.run([harness.TESTUDO, *command, word], capture_output=True, text=True, timeout=harness.patience(), check=False)
        assert r.returncode == OFF and r.stderr == "" and r.stdout.startswith("Usage: testudo "), r
