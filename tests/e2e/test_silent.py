"""Commands for guests whose process says nothing: stopped, or at something else; and a list of none."""

import json
import subprocess
import time

import pytest

import harness
import silent
from harness import VMM_ERROR

pytestmark = pytest.mark.nokvm

TALK = [["stat", "g"], ["pause", "g"], ["resume", "g"], ["stop", "g"], ["save", "g", "f"], ["migrate", "g", "unix:m"]]


@pytest.fixture(autouse=True)
def runtime(work, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", work)


@pytest.fixture
def cli(work):
    def run(*words):
        began = time.monotonic()
        r = subprocess.run([harness.TESTUDO, *words], cwd=work, capture_output=True, text=True,
                           timeout=harness.patience(), check=False)
        r.took = time.monotonic() - began
        return r

    return run


def test_empty_list_says_so(cli, work):
    r = cli("list")
    assert (r.returncode, r.stdout) == (0, "")
    assert r.stderr == f"testudo: no guests run; the run directory is {work}/testudo\n"
    r = cli("list", "--json")
    assert (r.returncode, r.stdout, r.stderr) == (0, "[]\n", "")


def test_list_of_a_stopped_guest(cli, work):
    with silent.guest(work) as p:
        silent.stop(p)
        r = cli("list")
        assert r.returncode == 0 and r.took < 1, r.took
        assert r.stdout.splitlines()[1].split() == ["g", str(p.pid), "stopped", "-", "-"]
        assert len(r.stderr.splitlines()) == 1 and f"kill -CONT {p.pid}" in r.stderr and "fg" in r.stderr, r.stderr
        r = cli("list", "--json")
        row, = json.loads(r.stdout)
        assert (row["pid"], row["status"], row["memory"], row["cpus"]) == (p.pid, "stopped", None, None)
        assert "kill -CONT" in row["error"] and r.stderr == ""


@pytest.mark.parametrize("words", TALK, ids=" ".join)
def test_every_command_tells_a_stopped_guest_at_once(cli, work, words):
    with silent.guest(work) as p:
        silent.stop(p)
        r = cli(*words)
        # there is such a guest: migrate and save fail, and leave it where it is
        assert r.returncode == (5 if words[0] in ("migrate", "save") else VMM_ERROR) and r.took < 1, (r.returncode, r.took)
        assert f"process {p.pid} is stopped" in r.stderr and f"kill -CONT {p.pid}" in r.stderr, r.stderr
        assert len(r.stderr.splitlines()) == 1 and r.stdout == ""


@pytest.mark.parametrize("words", [["list"], ["stat", "g"]], ids=" ".join)
def test_stopped_with_a_full_queue_of_connections(cli, work, words):
    """As after many looks at it: there is no room for one more, and so no peer to ask the kernel about."""
    with silent.guest(work, backlog=0) as p:
        silent.stop(p)
        for _ in range(3):
            r = cli(*words)
            assert r.took < 1 and f"kill -CONT {p.pid}" in r.stderr, (r.took, r.stderr)


def test_one_that_does_not_answer(cli, work):
    """It is not stopped: it takes no connection."""
    with silent.guest(work) as p:
        r = cli("list")
        assert r.stdout.splitlines()[1].split() == ["g", str(p.pid), "no", "answer", "-", "-"] and r.took < 3, r
        assert "not stopped" in r.stderr and "testudo stop --force g" in r.stderr, r.stderr
        r = cli("stat", "g")
        assert r.returncode == VMM_ERROR and "within 2 s" in r.stderr and "not stopped" in r.stderr, r.stderr


def test_size_that_is_not_known(cli, work):
    answers = {"query-status": {"status": "inmigrate", "running": False},
               "query-memory-size-summary": {"error": "there is no guest here yet"},
               "query-cpus-fast": {"error": "there is no guest here yet"}, "query-migrate": {}}
    with silent.guest(work, answers=answers) as p:
        assert cli("list").stdout.splitlines()[1].split() == ["g", str(p.pid), "inmigrate", "-", "-"]
        text = cli("stat", "g").stdout
        assert "memory      -\n" in text and "vcpus       -\n" in text, text
        row, = json.loads(cli("list", "--json").stdout)
        assert row["memory"] is None and row["cpus"] is None
