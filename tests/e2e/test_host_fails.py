"""The host fails under a guest, or says no: what is to blame is named, and nothing is left."""

import contextlib
import fcntl
import os
import pathlib
import resource
import socket
import subprocess

import pytest

import harness
import moving
from harness import BAD_INPUT, OFF, USAGE, VMM_ERROR
from saving import front, save, saved

ESC = b"\x1b[31m"


@pytest.fixture
def snapshot(launch, work):
    """A saved guest whose disk-like working set is read back page by page."""
    path = pathlib.Path(work, "snap")
    g = launch("source", params="dirty wss=8 order=rand", mem=64)
    g.wait_beats()
    saved(g, path)
    assert g.end() == 0
    return path


def check_lost(g, path):
    """It ended, at once, as by a failure of the host that was told."""
    assert g.end() == VMM_ERROR, g.story()
    lines = [line for line in harness.without_mitigation(g.log()).splitlines() if "error: " in line]
    assert len(lines) == 1 and f"guest memory: {path} was cut short" in lines[0], g.log()
    assert g.name not in moving.leftovers(g.work)


@pytest.mark.parametrize("part", [0, 2])
def test_saved_file_cut_under_its_guest(launch, work, snapshot, part):
    """KVM cannot have the page."""
    _, offset, size = front(snapshot)
    g = launch("g", incoming=f"file:{snapshot}")
    g.wait_beats()
    os.truncate(snapshot, offset + size // part if part else 0)
    if part:  # it may live long with the half that it has
        save(g, f"{work}/again")
    check_lost(g, snapshot)


def test_saved_file_cut_and_read_by_us(launch, work, snapshot):
    """The process itself touches the page: SIGBUS."""
    g = launch("g", "-S", incoming=f"file:{snapshot}")
    monitor = moving.Qmp(g)
    g.until(lambda: monitor.ask("query-status")["status"] == "paused", lambda: "not paused")
    os.truncate(snapshot, 0)
    code, _, err = save(g, f"{work}/again")
    assert code != 0, err
    check_lost(g, snapshot)


def test_kill_by_sigbus_is_none_of_memory(launch):
    g = launch("g")
    g.wait_beats()
    g.p.send_signal(7)
    assert g.end() == -7 and "guest memory" not in g.log(), g.story()


LIMITS = {
    "ulimit -f": (["prlimit", f"--fsize={16 << 20}"], "ulimit -f"),
    "ulimit -v": (["prlimit", f"--as={512 << 20}"], "ulimit -v"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_no_memory(work, limit):
    binary = harness.TESTUDO.read_bytes()
    if b"__asan_init" in binary or b"__tsan_init" in binary:
        pytest.skip("the sanitizer itself wants address space")
    prefix, word = LIMITS[limit]
    r = harness.run_raw(harness.arguments("hello", "-m", "1G"), work, prefix=prefix)
    assert r.code == VMM_ERROR and len(r.log) == 1 and "-m: " in r.log[0], r
    assert [w for w in LIMITS if w in r.log[0]] == [word], r


@pytest.mark.parametrize("limit,word,values", [("as", "ulimit -v", range(96 << 20, 1 << 30, 48 << 20)),
                                               ("nofile", "ulimit -n", [8, 16, 64, 300, 510, 600])],
                         ids=["as", "nofile"])
def test_whatever_fails_of_a_limit_names_it(work, limit, word, values):
    """More and more of it: each start fails at another place, until one does not."""
    binary = harness.TESTUDO.read_bytes()
    if b"__asan_init" in binary or b"__tsan_init" in binary:
        pytest.skip("the sanitizer itself wants address space")
    codes = []
    for value in values:
        r = harness.run_raw(harness.arguments("hello", "-c", 4, "-m", "64M"), work, prefix=["prlimit", f"--{limit}={value}"])
        codes.append(r.code)
        if r.code != OFF:
            assert r.code in (VMM_ERROR, BAD_INPUT) and [line for line in r.log if "error: " in line] == r.log[-1:], r
            assert word in r.log[-1] or "out of memory" in r.log[-1] or "open files" in r.log[-1], (value, str(r))
    assert codes[0] != OFF and codes[-1] == OFF, codes


def test_more_than_a_slot_of_kvm(testudo):
    r = testudo("hello", "-m", "16T")
    assert r.code == USAGE and len(r.log) == 1, r
    assert "-m: 16777216 MiB" in r.err and "give at most" in r.err and "KVM_SET" not in r.err, r


# ---- standard input, output and error ----

def closing(words, work, closed, **kwargs):
    return harness.run_raw(["-c", f'exec "$@" {closed}', "sh", harness.TESTUDO, *words], work, binary="/bin/sh", **kwargs)


@pytest.mark.parametrize("closed,word", [("<&-", "standard input is closed"), (">&-", "standard output is closed"),
                                         ("<&- >&-", "standard input is closed")])
def test_closed_stream_is_named(work, closed, word):
    r = closing(harness.arguments("hello"), work, closed)
    assert r.code == BAD_INPUT and len(r.log) == 1 and word in r.log[0] and "--serial none" in r.log[0], r


def test_closed_error_stream(work):
    disk = harness.make_disk(os.path.join(work, "disk"))
    r = closing(harness.arguments("blk sectors=8", "-v", "-d", disk), work, "2>&-")
    assert r.code == OFF and r.lines[-1] == "done blk", r
    assert pathlib.Path(disk).read_bytes()[:4096] == harness.disk_words(0, 8)


PRINT = [["version"], ["help"], ["run", "--help"], ["list", "--json"], ["policy", "check", harness.ROOT / "policy/default.yaml"],
         ["policy", "explain", "--host", harness.HOSTS / "epyc-rome.json"], ["run", "--cpu", "help"],
         ["run", "-c", "2", "--help"], ["policy", "explain", "--cpu", "help"],
         *([command, "x", "--help"] for command in ("stat", "pause", "save", "migrate"))]


@pytest.mark.nokvm
@pytest.mark.parametrize("words", PRINT, ids=lambda words: "-".join(map(str, words[:2])))
@pytest.mark.parametrize("where,word", [(">&-", "standard output is closed"), (">/dev/full", "standard output: ")])
def test_output_that_nobody_gets(work, words, where, word):
    r = closing(words, work, where)
    assert r.code == VMM_ERROR and r.out == "" and len(r.log) == 1 and word in r.log[0], r


# ---- what others say ----

BAD_WORDS = [
    ["run", "-k", ESC + b"kernel"], ["run", "-k", harness.GUEST, "-d", ESC + b"disk"],
    ["run", "-k", harness.GUEST, "-i", ESC + b"\n\x9b\xc2\x9binitrd"], ["run", b"--" + ESC], ["run", "-m", ESC, "-k", "x"],
    ["run", "--incoming", b"file:" + ESC], ["run", "--incoming", b"unix:/" + ESC + b"/x"], ["run", "-k", "x", "--name", ESC],
    ["run", "-k", harness.GUEST, "--policy", ESC], [ESC], ["help", ESC], ["stat", ESC], ["pause", ESC],
    ["save", "x", ESC], ["migrate", ESC, "unix:x"], ["policy", ESC], ["policy", "check", ESC],
    ["policy", "explain", "--host", ESC], ["policy", "explain", "--cpu", ESC], ["policy", "explain", "--guest", ESC],
    ["host", ESC], ["list", ESC],
]


@pytest.mark.nokvm
@pytest.mark.parametrize("words", BAD_WORDS, ids=lambda words: words[0] if isinstance(words[0], str) else "ESC")
def test_control_bytes_of_the_command_line(work, words):
    p = subprocess.run([harness.TESTUDO, *words], cwd=work, stdin=subprocess.DEVNULL, capture_output=True, check=False,
                       env={**os.environ, "XDG_RUNTIME_DIR": work}, timeout=harness.patience())
    assert p.returncode in (USAGE, BAD_INPUT, VMM_ERROR), p
    assert p.stderr.count(b"\n") == 1 and p.stderr.endswith(b"\n"), p.stderr
    p.stderr.decode()
    for byte in (b"\x1b", b"\xc2\x9b", b"\x9b"):
        assert byte not in p.stdout + p.stderr, p


@pytest.mark.nokvm
def test_control_bytes_in_a_file_that_is_right(work):
    path = os.fsencode(work) + b"/" + ESC + b"p.yaml"
    with open(path, "wb") as f:
        f.write(b"version: 1\n")
    p = subprocess.run([harness.TESTUDO, "policy", "check", path], capture_output=True, check=True)
    assert b"?[31mp.yaml: no mistakes\n" in p.stdout and b"\x1b" not in p.stdout


@pytest.mark.nokvm
@pytest.mark.parametrize("words", [["list"], ["stat", "web"], ["pause", "web"], ["stat", "web", "--json"]], ids=" ".join)
def test_control_bytes_of_a_guest_process(work, words):
    """Whatever answers on the control socket: it may be a process that its guest has taken over."""
    folder = pathlib.Path(work, "testudo", "web")
    folder.mkdir(parents=True, mode=0o700)
    os.chmod(folder.parent, 0o700)
    evil = '"\\u001b[31m \\u009b1m"'
    answer = (f'{{"error": {{"class": "GenericError", "desc": {evil}}}}}\n' if words[0] == "pause" else
              f'{{"return": {{"status": {evil}, "name": {evil}, "backend": {evil}, "verdict": {evil}}}}}\n').encode()
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(folder / "qmp.sock"))
        s.listen(8)
        p = subprocess.Popen([harness.TESTUDO, *words], cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env={**os.environ, "XDG_RUNTIME_DIR": work})
        s.settimeout(harness.patience())
        c, _ = s.accept()
        with c:
            c.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\n')
            while c.recv(65536):
                c.sendall(answer)
        out, err = p.communicate(timeout=harness.patience())
    os.close(lock)
    assert b"?[31m" in out + err, (out, err)
    assert b"\x1b" not in out + err and b"\xc2\x9b" not in out + err, (out, err)


HELLOS = {"HTTP": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
          "SSH": b"SSH-2.0-OpenSSH_9.2\r\n", "QEMU": b"QEVM\0\0\0\3" + bytes(32)}


@pytest.mark.parametrize("who", HELLOS)
def test_stranger_at_a_migration_port(launch, work, who):
    g = launch("g", incoming=f"unix:{work}/mig")
    g.until(lambda: os.path.exists(f"{work}/mig"), lambda: "does not listen")
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"{work}/mig")
        s.sendall(HELLOS[who])
        g.wait_log(f"({who}")
        with contextlib.suppress(ConnectionResetError):  # of what was not read
            assert s.recv(1) == b""
    assert "no migration stream of testudo" in g.log() and "damaged" not in g.log(), g.log()
    a = launch("a")  # and a guest may still come
    a.wait_beats()
    p = subprocess.run([harness.TESTUDO, "migrate", "a", f"unix:{work}/mig"], env=a.env, cwd=work, capture_output=True, check=False)
    assert p.returncode == moving.MOVED, p


ANSWERS = {"HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n", "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
           "a QMP monitor": b'{"QMP": {"version": {}}}\r\n'}


@pytest.mark.parametrize("who", ANSWERS)
def test_stranger_in_the_place_of_a_destination(launch, work, who):
    a = launch("a")
    a.wait_beats()
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(f"{work}/other")
        s.listen(8)
        p = subprocess.Popen([harness.TESTUDO, "migrate", "a", f"unix:{work}/other"], env=a.env, cwd=work,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        s.settimeout(harness.patience())
        c, _ = s.accept()
        with c:
            c.sendall(ANSWERS[who])
            _, err = p.communicate(timeout=harness.patience())
    assert p.returncode == moving.SOURCE_RUNS and f"({who})" in err.decode(), err
    assert "no testudo that waits for a guest" in err.decode() and "damaged" not in err.decode(), err
    a.wait_beats()


def test_signal_of_a_file_too_large_kills_nobody(launch, work):
    """A save beyond the limit of the guest's process fails, says why, and the guest goes on."""
    g = launch("g", mem=64, params="dirty wss=8")
    g.wait_beats()
    resource.prlimit(g.p.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    code, _, err = save(g, f"{work}/snap")
    assert code and "ulimit -f" in err, (code, err)
    g.wait_beats()
