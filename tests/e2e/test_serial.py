"""COM1 on pipes, a terminal, a file, a socket, a pseudo-terminal, nowhere."""

import os
import pty
import random
import re
import select
import signal
import socket
import stat
import termios
import time

import pytest

import harness
from harness import BAD_INPUT, OFF, USAGE

CTRL_A, CTRL_D = b"\x01", b"\x04"
ECHOES = pytest.mark.parametrize("command", ["echo", "echoirq"])


def noise(n):
    """@n printable bytes in no order"""
    return bytes(random.Random(n).choices(range(0x21, 0x7f), k=n))


# ---- pipes ----

def echo(live, command, data):
    """Send @data once the guest listens (it clears its FIFO before). Return: all that came back"""
    with live(command) as t:
        t.read_until(b"echo ready\n")
        t.seen = b""
        done = f"done {command}\n".encode()
        data += CTRL_D
        while done not in t.seen:
            readable, writable, _ = select.select([t.p.stdout], [t.p.stdin] if data else [], [],
                                                  harness.TIMEOUT)
            assert readable or writable, t.seen
            if writable:
                data = data[os.write(t.p.stdin.fileno(), data[:512]):]
            if readable:
                more = os.read(t.p.stdout.fileno(), 65536)
                assert more, t.seen
                t.seen += more
        assert t.end(None) == OFF
        assert t.stderr() == ""
        return t.seen


@ECHOES
@pytest.mark.parametrize("n", [1, 15, 16, 17, 20000])
def test_echo_over_pipes(live, command, n):
    data = noise(n)
    assert echo(live, command, data).startswith(data + b"\n")


@ECHOES
def test_bytes_pass_unchanged(live, command):
    """No terminal, no escape key, no translation: every byte but Ctrl-D, which ends the guest."""
    data = bytes(b for b in range(256) if b != CTRL_D[0])
    assert echo(live, command, data).startswith(data + b"\n")


def test_input_before_the_guest_listens(testudo, work):
    """A file as standard input: the guest loses what its FIFO held, testudo keeps the rest."""
    path = os.path.join(work, "input")
    with open(path, "wb") as f:
        f.write(noise(3000) + b"<end>" + CTRL_D)
    with open(path, "rb") as f:
        r = testudo("echo", stdin=f).expect(OFF, "done echo")
    assert b"<end>\n" in r.raw and len(r.raw) > 2900


def test_end_of_input_is_not_the_end_of_the_guest(testudo):
    """</dev/null"""
    r = testudo("kvmclock us=300000").expect(OFF, "done kvmclock")
    assert r.err == ""


@ECHOES
def test_dialogue(live, command):
    with live(command) as t:
        t.read_until(b"echo ready\n")
        for i in range(50):
            word = f"<{i}>".encode()
            t.p.stdin.write(word)
            t.read_until(word)
        t.p.stdin.write(CTRL_D)
        t.read_until(b"done ")
        assert t.end(None) == OFF


def test_reader_goes_away(live):
    """The guest goes on, and one line tells that output is lost."""
    with live("kvmclock us=500000") as t:
        t.p.stdout.close()
        assert t.end(None) == OFF
        assert t.stderr().count("\n") <= 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(work, closed):
    """What testudo opens later must not land on descriptors 0 to 2."""
    disk = harness.make_disk(os.path.join(work, "disk"))
    words = harness.arguments("blk", "-d", disk, "--serial", f"file:{work}/out")
    r = harness.run_raw(["-c", f'exec "$@" {closed}', "sh", harness.TESTUDO, *words], work,
                        binary="/bin/sh")
    assert r.code in (OFF, harness.VMM_ERROR, BAD_INPUT), r
    if r.code == OFF:
        with open(f"{work}/out", encoding="ascii") as f:
            assert f.read().endswith("done blk\n")
        with open(disk, "rb") as f:
            assert f.read(64 * 512) == harness.disk_words(0, 64)


# ---- terminal ----

class Terminal:
    """A pseudo-terminal on which testudo runs as the user's terminal."""

    def __init__(self, live, params, *args):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.t = live(params, *args, stdin=self.slave, stdout=self.slave)

    def __enter__(self):
        self.t.__enter__()
        return self

    def __exit__(self, *exc):
        self.t.__exit__(*exc)
        os.close(self.master)
        os.close(self.slave)

    def mode(self):
        return termios.tcgetattr(self.slave)

    def is_raw(self):
        return not self.mode()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def read_until(self, text):
        return self.t.read_until(text, fd=self.master)

    def type(self, data):
        os.write(self.master, data)


@pytest.fixture
def terminal(live):
    return lambda params, *args: Terminal(live, params, *args)


@ECHOES
def test_terminal_is_raw_while_the_guest_runs(terminal, command):
    with terminal(command) as term:
        term.read_until(b"echo ready")
        assert term.is_raw()
        term.type(b"\x03\x1a\x1c ^C ^Z and ^\\ are the guest's\r")
        term.read_until(b"guest's\r")
        assert b"\x03\x1a\x1c" in term.t.seen
        term.type(CTRL_D)
        term.read_until(b"done " + command.encode())
        assert term.t.end(None) == OFF
        assert term.mode() == term.before


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_terminal_is_restored_after_a_signal(terminal, sig):
    with terminal("hello end=loop") as term:
        term.read_until(b"done hello")
        assert term.is_raw()
        assert term.t.end(sig) == -sig
        assert term.mode() == term.before


@pytest.mark.parametrize("params,code", [
    ("hello end=triple", harness.CRASH), ("hello end=panic", harness.PANIC), ("hello", OFF),
])
def test_terminal_is_restored_after_the_guest_ends(terminal, params, code):
    with terminal(params) as term:
        term.read_until(b"done hello")
        assert term.t.end(None) == code
        assert term.mode() == term.before


def test_terminal_is_restored_after_bad_input(terminal):
    with terminal("hello", "-d", "/nonexistent") as term:
        assert term.t.end(None) == BAD_INPUT
        assert term.mode() == term.before


@pytest.mark.parametrize("way", ["hlt", "loop"])
def test_escape_x_quits(terminal, way):
    with terminal(f"hello end={way}") as term:
        term.read_until(b"done hello")
        term.type(CTRL_A + b"x")
        assert term.t.end(None) == OFF
        assert term.mode() == term.before


def test_escape_x_quits_when_the_guest_takes_no_input(terminal):
    with terminal("hello end=hlt") as term:
        term.read_until(b"done hello")
        for _ in range(100):
            term.type(b"x" * 100)
            time.sleep(0.002)
        term.type(CTRL_A + b"x")
        assert term.t.end(None) == OFF
        assert term.mode() == term.before


def test_escape_x_quits_between_resets(terminal):
    with terminal("hello acpi=0 end=reset") as term:
        term.read_until(b"done hello")
        term.type(CTRL_A + b"x")
        end = time.monotonic() + harness.patience()
        while term.t.p.poll() is None and time.monotonic() < end:  # or its output would block it
            if select.select([term.master], [], [], 0.05)[0]:
                os.read(term.master, 65536)
        assert term.t.p.returncode == OFF
        assert term.mode() == term.before


def test_escape_a_sends_ctrl_a(terminal):
    with terminal("echo") as term:
        term.read_until(b"echo ready")
        term.type(b"<" + CTRL_A + b"a>" + b"(" + CTRL_A + CTRL_A + b")")
        term.read_until(b"<" + CTRL_A + b">(" + CTRL_A + b")")


def test_escape_b_sends_a_break(terminal):
    with terminal("echo") as term:
        term.read_until(b"echo ready")
        term.type(CTRL_A + b"b")
        term.read_until(b"<break>")


def test_escape_h_helps_the_user_not_the_guest(terminal):
    with terminal("echo") as term:
        term.read_until(b"echo ready")
        term.type(CTRL_A + b"h!")
        seen = term.read_until(b"!")
        assert b"Ctrl-a" not in seen
        assert "Ctrl-a x" in term.t.wait_log("Ctrl-a x")


def test_stop_and_continue(terminal):
    """SIGTSTP gives the terminal back, SIGCONT takes it again."""
    with terminal("echo") as term:
        term.read_until(b"echo ready")
        term.t.p.send_signal(signal.SIGTSTP)
        harness.wait_for(lambda: re.search(r"^State:\s+T", open(
            f"/proc/{term.t.p.pid}/status", encoding="ascii").read(), re.M))
        assert term.mode() == term.before
        term.t.p.send_signal(signal.SIGCONT)
        harness.wait_for(term.is_raw)
        term.type(b"back")
        term.read_until(b"back")
        assert term.t.end() == -signal.SIGTERM
        assert term.mode() == term.before


# ---- file ----

def test_file(testudo, work):
    path = os.path.join(work, "log")
    with open(path, "w", encoding="ascii") as f:
        f.write("old\n" * 1000)
    r = testudo("hello", "--serial", f"file:{path}")
    assert (r.code, r.out, r.err) == (OFF, "", "")
    with open(path, encoding="ascii") as f:
        assert f.read().splitlines()[-1] == "done hello"


def test_none(testudo):
    r = testudo("hello", "--serial", "none")
    assert (r.code, r.out, r.err) == (OFF, "", "")


def knock(fd):
    """Write until the guest, which may still be booting, gives an echo; leave nothing unread: what comes last is
    echoed last."""
    seen = b""

    def echo(byte):
        nonlocal seen
        if select.select([fd], [], [], 0.1)[0]:
            seen += os.read(fd, 4096)
        return byte in seen

    harness.until(lambda: os.write(fd, b"?") and echo(b"?"), lambda: seen, pause=0)
    os.write(fd, b"!")
    harness.until(lambda: echo(b"!"), lambda: seen, pause=0)
    assert seen.endswith(b"!"), seen


# ---- unix socket ----

def connect(path):
    harness.wait_for(lambda: os.path.exists(path))
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(harness.patience())
    end = time.monotonic() + harness.patience(10)
    while True:
        try:
            s.connect(path)
            return s
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.01)


def receive_until(s, text):
    seen = b""
    while text not in seen:
        more = s.recv(4096)
        assert more, f"end before {text!r}: {seen!r}"
        seen += more
    return seen


@ECHOES
def test_unix_socket(live, work, command):
    path = f"{work}/con"
    with live(command, "--serial", f"unix:{path}") as t:
        with connect(path) as s:
            mode = os.stat(path).st_mode
            assert stat.S_ISSOCK(mode) and not mode & 0o077, "for the user only"
            knock(s.fileno())
            s.sendall(b"first client")
            receive_until(s, b"first client")
        with connect(path) as s:  # and after it left, the next one
            s.sendall(b"second")
            receive_until(s, b"second")
            s.sendall(CTRL_D)
            receive_until(s, b"done " + command.encode())
        assert t.end(None) == OFF
        assert t.stderr() == ""
    assert not os.path.exists(path)


def test_unix_socket_half_closed(live, work):
    path = f"{work}/con"
    with live("echo", "--serial", f"unix:{path}") as t:
        with connect(path) as s:
            knock(s.fileno())
            s.sendall(b"last words" + CTRL_D)
            s.shutdown(socket.SHUT_WR)
            receive_until(s, b"done echo")  # it still reads
        assert t.end(None) == OFF


def test_unix_socket_hung_up_client_is_heard(live, work):
    path = f"{work}/con"
    with live("echo", "--serial", f"unix:{path}") as t:
        with connect(path) as s:
            knock(s.fileno())
            s.sendall(b"x" * 100 + CTRL_D)
        assert t.end(None) == OFF


def test_unix_socket_has_one_client(live, work):
    path = f"{work}/con"
    with live("echo", "--serial", f"unix:{path}") as t:
        with connect(path) as first:
            knock(first.fileno())
            with connect(path) as second:
                try:
                    second.sendall(b"intruder")
                    assert second.recv(100) == b""
                except (ConnectionResetError, BrokenPipeError):
                    pass
            first.sendall(b"still")
            assert b"intruder" not in receive_until(first, b"still")
        assert t.end() == -signal.SIGTERM


def test_unix_socket_of_somebody_else_stays(testudo, work):
    path = f"{work}/con"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
        testudo("hello", "--serial", f"unix:{path}").expect_error(BAD_INPUT, path)
    assert os.path.exists(path)


# ---- pty ----

def test_pty(live):
    with live("echo", "--serial", "pty") as t:
        name = re.search(r"/dev/pts/\d+", t.wait_log("/dev/pts/"))[0]
        fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
        knock(fd)
        os.write(fd, b"over a pty")
        t.read_until(b"over a pty", fd=fd)
        os.close(fd)
        fd = os.open(name, os.O_RDWR | os.O_NOCTTY)  # a second visit
        t.seen = b""
        os.write(fd, b"again" + CTRL_D)
        t.read_until(b"again", fd=fd)
        assert t.end(None) == OFF
        os.close(fd)


# ---- wrong ----

@pytest.mark.parametrize("where,code", [
    ("", USAGE), ("stdout", USAGE), ("file:", BAD_INPUT), ("unix:", BAD_INPUT),
    ("file:/nonexistent/log", BAD_INPUT), ("unix:/nonexistent/con", BAD_INPUT),
    ("unix:/tmp/" + "x" * 200, BAD_INPUT), ("file:/", BAD_INPUT),
])
def test_bad_serial(testudo, where, code):
    testudo("hello", "--serial", where).expect_error(code, "--serial")
