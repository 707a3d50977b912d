"""What each command says of a guest in each state: words of the command line, and advice that can be taken."""

import os
import pty
import re
import socket
import subprocess
import threading

import pytest

import harness
import silent
from harness import VMM_ERROR

pytestmark = pytest.mark.nokvm

# QMP's names of commands, states and members
QMP = re.compile(r"query-|qmp|migrate_cancel|system_|\bcont\b|x-testudo|\bquit\b|inmigrate|postmigrate|finish-migrate|prelaunch")
SIZE = {"query-memory-size-summary": {"base-memory": 1 << 27}, "query-cpus-fast": [{}]}


@pytest.fixture(autouse=True)
def runtime(work, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", work)


def run(work, *words):
    return subprocess.run([harness.TESTUDO, *words], cwd=work, capture_output=True, text=True, timeout=harness.patience(),
                          check=False)


@pytest.mark.parametrize("state,says,advice", [
    ("paused", "is paused and cannot shut down", "testudo resume g first"),
    ("prelaunch", "has not been started", "testudo resume g first"),
    ("finish-migrate", "stands still to be moved or saved", "try again"),
    ("postmigrate", "has left, moved or saved", None),
    ("shutdown", "is ending", None),
])
def test_stop_says_what_can_be_done(work, state, says, advice):
    with silent.guest(work, answers={"query-status": {"status": state, "running": False}, **SIZE}):
        r = run(work, "stop", "g")
    assert r.returncode == VMM_ERROR and says in r.stderr and "testudo stop --force g ends it" in r.stderr, r
    assert ("testudo resume" in r.stderr) == (advice == "testudo resume g first") and (not advice or advice in r.stderr)
    assert not QMP.search(r.stderr) and len(r.stderr.splitlines()) == 1, r.stderr


@pytest.mark.parametrize("command", [["pause", "g"], ["resume", "g"], ["stop", "g"], ["save", "g", "f"]], ids=" ".join)
def test_refusals_are_not_told_by_the_names_of_qmp(work, command):
    """The guest's process says why; which of its commands was refused is no word of the user's."""
    why = {"error": "the reason of it"}
    answers = {"query-status": {"status": "running", "running": True}, **SIZE,
               **dict.fromkeys(["stop", "cont", "system_powerdown", "getfd", "migrate"], why)}
    with silent.guest(work, answers=answers):
        r = run(work, *command)
    assert r.returncode and r.stderr == "testudo: error: guest 'g': the reason of it\n", r


@pytest.mark.parametrize("path", ["vmm/guest/control_commands.c", "vmm/guest/outgoing.c"])
def test_what_a_guest_says_is_for_both(path):
    """What these answer reaches users of the command line as it is."""
    text = (harness.ROOT / path).read_text()
    said = ["".join(re.findall(r'"((?:[^"\\\n]|\\.)*)"', call)) for call in re.findall(r"err_set\((.*?)\);", text, re.S)]
    assert said and [words for words in said if QMP.search(words)] == []


@pytest.mark.parametrize("names,change,says", [
    ([], "", "mitigations: nothing held, as before"),
    (["BHI_DIS_S"], "", "mitigations: BHI_DIS_S held as before"),
    (["BHI_DIS_S"], "BHI_DIS_S was held on a, is not held on b: x", "mitigations: BHI_DIS_S was held on a"),
])
def test_what_a_move_says_of_mitigations(work, names, change, says):
    """On a terminal. Nothing is 'held as before' where nothing was held."""
    state = {"status": "dry-run-passed", "ram": {"transferred": 0, "dirty-sync-count": 1}, "total-time": 1}
    if change:
        state["x-testudo-mitigation"] = change
    answers = {"query-status": {"status": "running", "running": True}, "query-migrate": state, **SIZE,
               "x-testudo-query-mitigation": {"vcpus": [{"held": {"at-1": names}}, {"held": {"at-1": names}}]}}
    with socket.socket(socket.AF_UNIX) as there, silent.guest(work, answers=answers):
        there.bind(f"{work}/there")
        there.listen(8)
        master, slave = pty.openpty()
        out = []

        def read():
            try:
                while data := os.read(master, 4096):
                    out.append(data)
            except OSError:
                pass  # nobody has the other side any more

        reader = threading.Thread(target=read)
        reader.start()
        p = subprocess.Popen([harness.TESTUDO, "migrate", "g", "unix:there", "--dry-run"], cwd=work, stdout=slave,
                             stderr=subprocess.PIPE)
        os.close(slave)
        err = p.communicate(timeout=harness.patience())[1]
        reader.join(harness.patience())
        os.close(master)
    assert p.returncode == 0 and says in b"".join(out).decode(), (out, err)


@pytest.mark.parametrize("words,advised", [([], True), (["--timeout", "60"], False)])
def test_no_advice_that_is_followed_already(work, words, advised):
    state = {"status": "active", "x-testudo-stuck": True, "cpu-throttle-percentage": 99, "ram": {}}
    answers = {"query-status": {"status": "running", "running": True}, **SIZE,
               "query-migrate": {"then": [state, dict(state, status="dry-run-passed")]}}
    with socket.socket(socket.AF_UNIX) as there, silent.guest(work, answers=answers):
        there.bind(f"{work}/there")
        there.listen(8)
        r = run(work, "migrate", "g", "unix:there", "--dry-run", *words)
    assert r.returncode == 0 and "writes more than can be sent" in r.stderr, r
    assert ("by --timeout with --on-timeout" in r.stderr) == advised and "--downtime-ms" in r.stderr, r.stderr
