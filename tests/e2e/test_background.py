"""Guests in the background: jobs of an interactive shell, --daemonize, and how a script learns that one is ready."""

import fcntl
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import termios
import time

import pytest

import harness
import moving
import qmp
from harness import BAD_INPUT, OFF, USAGE, VMM_ERROR

LIMIT = 60


def env_of(work):
    return {**os.environ, "XDG_RUNTIME_DIR": str(work), "PS1": "prompt$ ", "TERM": "dumb"}


def state_of(pid):
    return re.search(r"^State:\s+(\S)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[1]


class Shell:
    """An interactive bash with job control on a pseudo-terminal of its own."""

    def __init__(self, work):
        self.work, self.seen = work, b""
        self.master, self.slave = os.openpty()
        self.p = subprocess.Popen(["bash", "--norc", "--noprofile", "-i"], cwd=work, env=env_of(work), stdin=self.slave,
                                  stdout=self.slave, stderr=self.slave, start_new_session=True,
                                  preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run([str(harness.TESTUDO), "stop", "--force", "web"], env=env_of(self.work), capture_output=True,
                       check=False)
        self.p.kill()
        self.p.wait()
        os.close(self.master)
        os.close(self.slave)

    def type(self, text):
        self.seen = b""
        os.write(self.master, text)

    def read_until(self, text):
        end = time.monotonic() + LIMIT
        while text not in self.seen:
            ready = select.select([self.master], [], [], max(0, end - time.monotonic()))[0]
            assert ready, f"no {text!r}; seen {self.seen!r}"
            self.seen += os.read(self.master, 65536)
        return self.seen

    def answers(self):
        """The shell reads its terminal, nobody else does."""
        self.type(b"echo sum-$((20+3))\r")
        self.read_until(b"sum-23")

    def guest(self):
        return qmp.Client(qmp.socket_path(self.work, "web"))

    def guest_pid(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(qmp.socket_path(self.work, "web"))
            cred = s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            return int.from_bytes(cred[:4], "little")

    def runs(self):
        with self.guest() as c:
            assert c.status() == "running"
        assert state_of(self.guest_pid()) != "T"

    def mode(self):
        return termios.tcgetattr(self.slave)

    def foreground(self):
        return os.tcgetpgrp(self.master)  # the slave tells only those of its session

    def is_raw(self):
        return not self.mode()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


@pytest.fixture
def shell(work):
    with Shell(work) as s:
        s.read_until(b"prompt$ ")
        yield s


def job(params="echo"):
    return f"{harness.TESTUDO} run --name web -p {params} {harness.GUEST}".encode()


def start(shell, params="echo"):
    shell.type(job(params) + b" &\r")
    shell.read_until(b"without input")
    shell.read_until(b"echo ready")


def test_job_runs_in_the_background(shell):
    """As the README has it: it is not stopped, says once that it has no input, and leaves the terminal alone."""
    start(shell)
    assert shell.seen.count(b"without input") == 1
    shell.answers()
    shell.runs()
    assert shell.foreground() == shell.p.pid
    shell.type(b"kill -TERM %1; wait %1; stty -a\r")
    seen = shell.read_until(b"iexten")
    assert b"-icanon" not in seen and b"-isig" not in seen, seen


def test_job_on_a_terminal_that_stops_writers(shell):
    shell.type(b"stty tostop\r")
    shell.answers()
    start(shell)
    shell.answers()
    shell.runs()


def test_job_takes_the_terminal_in_the_foreground(shell):
    start(shell)
    pid = shell.guest_pid()
    shell.type(b"fg\r")
    harness.wait_for(lambda: shell.foreground() == os.getpgid(pid) and shell.is_raw(), LIMIT)
    shell.type(b"typed")
    shell.read_until(b"typed")
    # and back again, by what a guest in raw mode cannot be sent from its keyboard
    os.kill(pid, signal.SIGTSTP)
    shell.read_until(b"Stopped")
    assert state_of(pid) == "T"
    shell.answers()
    shell.type(b"bg\r")
    harness.wait_for(lambda: state_of(pid) != "T", LIMIT)
    shell.answers()
    shell.runs()
    shell.type(b"fg\r")
    harness.wait_for(lambda: shell.foreground() == os.getpgid(pid) and shell.is_raw(), LIMIT)
    shell.type(b"more")
    shell.read_until(b"more")
    shell.type(b"\x01x")
    shell.read_until(b"prompt$ ")
    shell.type(b"stty -a\r")
    seen = shell.read_until(b"iexten")
    assert b"-icanon" not in seen and b"-isig" not in seen, seen


def test_job_stopped_by_force_in_raw_mode(shell):
    """SIGSTOP leaves no time to give the terminal back: the shell sets it, and the job in the background lets it be."""
    shell.type(job() + b"\r")
    shell.read_until(b"echo ready")
    pid = shell.guest_pid()
    harness.wait_for(shell.is_raw, LIMIT)
    os.kill(pid, signal.SIGSTOP)
    shell.read_until(b"Stopped")
    shell.type(b"bg\r")
    harness.wait_for(lambda: state_of(pid) != "T", LIMIT)
    shell.answers()
    shell.runs()


def test_hangup_ends_it_unless_ignored(live, work):
    with live("echo") as t:
        t.read_until(b"echo ready\n")
        assert t.end(signal.SIGHUP) == -signal.SIGHUP
    with live("echo", prefix=["nohup"]) as t:
        t.read_until(b"echo ready\n")
        t.p.send_signal(signal.SIGHUP)
        t.p.stdin.write(b"still here")
        t.read_until(b"still here")
        assert t.end() == -signal.SIGTERM


# ---- --daemonize ----

def daemonize(work, *args, kernel=harness.GUEST, **kwargs):
    words = ["run", "--daemonize", "--name", "web", *map(str, args)]
    if kernel:
        words += ["-k", str(kernel), "-p", "echo"]
    return subprocess.run([str(harness.TESTUDO), *words], cwd=work, env=env_of(work), stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=LIMIT, check=False, **kwargs)


def command(work, *words):
    return subprocess.run([str(harness.TESTUDO), *map(str, words)], cwd=work, env=env_of(work), capture_output=True,
                          timeout=LIMIT, check=False)


def stopped(work):
    assert command(work, "stop", "--force", "web").returncode == 0
    assert moving.leftovers(work) == []


def test_daemonize(work):
    """When it returns, the guest can be paused and saved; its streams are closed, its session is its own."""
    r = daemonize(work)
    assert (r.returncode, r.stdout) == (OFF, b""), r
    assert harness.without_mitigation(r.stderr.decode()) == ""
    assert command(work, "pause", "web").returncode == 0
    with qmp.Client(qmp.socket_path(work, "web")) as c:
        assert c.status() == "paused"
    listed = command(work, "list").stdout.decode()
    pid = int(re.search(r"^web +(\d+)", listed, re.M)[1])
    assert os.getsid(pid) == pid
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)] == ["/dev/null"] * 3
    assert command(work, "save", "web", "snap").returncode == 0
    assert moving.leftovers(work) == []


def test_daemonize_keeps_a_log_file(work):
    with open(f"{work}/log", "wb") as log:
        p = subprocess.run([str(harness.TESTUDO), "run", "--daemonize", "--name", "web", "-p", "hello end=panic", "-v",
                            str(harness.GUEST)], cwd=work, env=env_of(work), stderr=log, timeout=LIMIT, check=False)
    assert p.returncode == OFF
    harness.wait_for(lambda: "panicked" in pathlib.Path(work, "log").read_text(), LIMIT)
    harness.wait_for(lambda: moving.leftovers(work) == [], LIMIT)


def test_daemonize_incoming(work):
    """It listens when the parent ends, and goes on when the guest has come."""
    with moving.Guest(work, "a", params="heartbeat") as a:
        a.wait_beats()
        pathlib.Path(work, "p.yaml").write_text(moving.POLICY)
        r = daemonize(work, "--policy", "p.yaml", "--incoming", f"unix:{work}/m", kernel=None)
        assert r.returncode == OFF, r
        moved = moving.migrate(a, f"unix:{work}/m")
        assert moved[0] == OFF, moved
        with qmp.Client(qmp.socket_path(work, "web")) as c:
            assert c.status() == "running"
    stopped(work)


@pytest.mark.nokvm
@pytest.mark.parametrize("args,code,word", [
    (["-k", "/nowhere"], BAD_INPUT, "/nowhere"), (["--serial", "stdio"], USAGE, "--daemonize"),
    (["-d", "/nowhere"], BAD_INPUT, "/nowhere"), (["--incoming", "file:/nowhere"], BAD_INPUT, "/nowhere"),
])
def test_daemonize_fails_as_the_child(work, args, code, word):
    if "-k" not in args and "--incoming" not in args:
        args = [*args, "-k", harness.GUEST]
    r = daemonize(work, *args, kernel=None)
    assert r.returncode == code and r.stdout == b""
    assert len(r.stderr.splitlines()) == 1 and word in r.stderr.decode(), r
    assert moving.leftovers(work) == []


@pytest.mark.nokvm
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_daemonize_dies_with_its_parent(work, sig):
    """Who ends it while it waits does not want the guest."""
    fifo = f"{work}/fifo"
    os.mkfifo(fifo)
    with harness.Live(["run", "--daemonize", "--name", "web", "-k", fifo], work, env=env_of(work)) as t:
        t.wait_log("waiting for")
        assert moving.leftovers(work) == ["web"]
        t.end(sig)
        harness.wait_for(lambda: moving.leftovers(work) == [], LIMIT)


# ---- readiness ----

def ready_line(work, *words, **kwargs):
    """Start it with a pipe as --ready-fd. Return: the guest, what the pipe brought up to its end"""
    r, w = os.pipe()
    try:
        t = harness.Live(["run", "--name", "web", "--ready-fd", w, *words], work, env=env_of(work), pass_fds=[w], **kwargs)
    finally:
        os.close(w)
    with open(r, "rb") as f:
        assert select.select([f], [], [], LIMIT)[0]
        return t, f.read().decode()


def test_ready_fd(work):
    t, line = ready_line(work, "-k", harness.GUEST, "-p", "echo")
    with t:
        assert line == f"ready name=web pid={t.p.pid} status=running\n"
        assert command(work, "pause", "web").returncode == 0
        assert t.end() == -signal.SIGTERM
    t, line = ready_line(work, "-S", "-k", harness.GUEST, "-p", "echo")
    with t:
        assert line.endswith(" status=prelaunch\n")
        assert t.end() == -signal.SIGTERM


def test_ready_when_it_listens(work):
    """A port that the system chose is in the line, in the log and in query-migrate, as QEMU has it there."""
    t, line = ready_line(work, "--incoming", "tcp:127.0.0.1:0")
    with t:
        port = re.fullmatch(rf"ready name=web pid={t.p.pid} status=inmigrate incoming=tcp:127\.0\.0\.1:(\d+)\n", line)[1]
        socket.create_connection(("127.0.0.1", int(port))).close()
        assert f"listens at tcp:127.0.0.1:{port}" in t.stderr()
        with qmp.Client(qmp.socket_path(work, "web")) as c:
            state = c.execute("query-migrate")
        assert state["socket-address"] == [{"type": "inet", "host": "127.0.0.1", "port": port}]
        assert state["x-testudo-incoming"] == f"tcp:127.0.0.1:{port}" and state["status"] == "none"
        assert t.end() == -signal.SIGTERM
    t, line = ready_line(work, "--incoming", f"unix:{work}/m")
    with t:
        assert line.endswith(f" incoming=unix:{work}/m\n")
        assert t.end() == -signal.SIGTERM
    t, line = ready_line(work, "--incoming", f"unix:{work}/a\nready\33[m")
    with t:
        assert line.endswith(f" incoming=unix:{work}/a?ready?[m\n") and line.count("\n") == 1
        assert t.end() == -signal.SIGTERM


def test_nobody_is_told_of_a_failure(work):
    t, line = ready_line(work, "-k", "/nowhere")
    with t:
        assert line == "" and t.end(None) == BAD_INPUT


def test_ready_reader_that_does_not_read(work):
    r, w = os.pipe()
    os.set_blocking(w, False)
    try:
        while True:
            os.write(w, bytes(4096))
    except BlockingIOError:
        os.set_blocking(w, True)
    with harness.Live(["run", "-k", harness.GUEST, "-p", "hello", "--ready-fd", w], work, pass_fds=[w]) as t:
        assert t.end(None) == OFF
        assert "--ready-fd" in t.stderr()
    os.close(r)
    os.close(w)


@pytest.mark.nokvm
@pytest.mark.parametrize("n", ["0", "99", "x"])
def test_bad_ready_fd(work, n):
    harness.run_raw(["run", "-k", harness.GUEST, "--ready-fd", n], work).expect_error(USAGE, "--ready-fd", n)


@pytest.mark.nokvm
@pytest.mark.parametrize("how", ["5</dev/null", "5<."])
def test_ready_fd_that_cannot_be_written(work, how):
    """Whoever waits for the line hears at once that there will be none."""
    r = harness.run_raw(["run", "-k", harness.GUEST, "--ready-fd", "5"], work, prefix=["sh", "-c", f'exec "$@" {how}', "sh"])
    r.expect_error(USAGE, "--ready-fd 5", "not open for writing")


@pytest.mark.parametrize("abstract", [False, True])
def test_service_manager_is_told(work, abstract):
    name = f"testudo-{os.getpid()}" if abstract else f"{work}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind("\0" + name if abstract else name)
        s.settimeout(LIMIT)
        env = {**env_of(work), "NOTIFY_SOCKET": "@" + name if abstract else name}
        with harness.Live(["run", "--name", "web", "-k", harness.GUEST, "-p", "echo"], work, env=env) as t:
            lines = s.recv(4096).decode().splitlines()
            assert lines[0] == "READY=1" and f"MAINPID={t.p.pid}" in lines
            with qmp.Client(qmp.socket_path(work, "web")) as c:
                assert c.status() == "running"
            assert t.end() == -signal.SIGTERM


def test_no_service_manager(testudo, work, monkeypatch):
    for where in ("/nowhere/notify", "vsock:2:1"):
        monkeypatch.setenv("NOTIFY_SOCKET", where)
        r = testudo("hello").expect(OFF, "done hello")
        assert len(r.log) == 1 and where in r.log[0], r


# ---- commands for a guest on its way ----

@pytest.mark.parametrize("words", [["pause", "web"], ["resume", "web"], ["save", "web", "snap2"], ["stop", "web"],
                                   ["migrate", "web", "unix:nowhere"]], ids=lambda w: w[0])
def test_commands_wait_for_a_guest(work, launch, words):
    """Not for ever, and one line says where it is awaited."""
    with launch("web", incoming=f"unix:{work}/m") as b:
        moving.wait_listening(b)
        begin = time.monotonic()
        r = command(work, *words)
        assert 9 < time.monotonic() - begin < LIMIT
        assert r.returncode in (VMM_ERROR, 5), r
        assert len(r.stderr.splitlines()) == 1, r
        assert f"is awaited at unix:{work}/m and has not come after 10 s" in r.stderr.decode(), r
        # what only looks does not wait
        assert b"inmigrate" in command(work, "stat", "web").stdout


def test_command_that_waited_is_done(work, launch):
    a = launch("a", params="heartbeat")
    a.wait_beats()
    b = launch("web", incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    p = subprocess.Popen([str(harness.TESTUDO), "pause", "web"], cwd=work, env=env_of(work), stderr=subprocess.PIPE)
    moving.moved(a, b, f"unix:{work}/m")
    _, err = p.communicate(timeout=LIMIT)
    assert p.returncode == 0, err
    with moving.Qmp(b) as c:
        assert c.status() == "paused"


def test_ctrl_c_ends_the_wait(work, launch):
    b = launch("web", incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    for words in (["pause", "web"], ["save", "web", "snap2"]):
        p = subprocess.Popen([str(harness.TESTUDO), *words], cwd=work, env=env_of(work), stderr=subprocess.PIPE)
        # it asks again and again: it is past its first look once it is asleep in poll
        harness.wait_for(lambda: "poll" in pathlib.Path(f"/proc/{p.pid}/wchan").read_text(), LIMIT)
        begin = time.monotonic()
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=LIMIT)
        assert p.returncode in (-signal.SIGINT, 5) and time.monotonic() - begin < 9
        assert not os.path.exists(f"{work}/snap2") and not os.path.exists(f"{work}/snap2.tmp")
