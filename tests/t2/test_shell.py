"""tools/lab sh: a person at a terminal in an emulated host."""
import fcntl
import os
import pathlib
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = TOP / "tests/lab/intelhost.py"
SECONDS = 120


class Terminal:
    """@words on a terminal of 33 rows and 99 columns."""

    def __init__(self, *words):
        self.fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs  # kept: what the terminal is set to afterwards is looked at
        self.p = subprocess.Popen([sys.executable, *map(str, words)], stdin=theirs, stdout=theirs, stderr=theirs,
                                  start_new_session=True)
        self.seen = ""

    def type(self, text):
        os.write(self.fd, text.encode())

    def until(self, pattern):
        """Reads until @pattern matches what was not yet matched. Return: what it matched"""
        end = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self.seen)):
            assert select.select([self.fd], [], [], max(end - time.monotonic(), 0))[0], f"no {pattern!r} in {self.seen!r}"
            self.seen += os.read(self.fd, 65536).decode(errors="replace")
        self.seen = self.seen[found.end():]
        return found

    def end(self):
        """Reads on until the program has ended. Return: its status"""
        end = time.monotonic() + SECONDS
        while self.p.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self.seen!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
        return self.p.returncode

    def close(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()
        os.close(self.fd)
        os.close(self.theirs)


@pytest.fixture
def terminal():
    t = Terminal(PROGRAM, "sh", "amd-stock")
    yield t
    t.close()


PROMPT = r"# \x1b\[6n|# $"


def test_a_terminal_in_the_host(terminal):
    """The greeting names what is there; job control, Ctrl-C, the size of the window; it ends with the shell's status and
    leaves the terminal as it was."""
    t = terminal
    t.until("This is the emulated host amd-stock: Linux 6")
    for path in ("/t2/bin/testudo", "/t2/guest/vmlinuz", "/t2/guest/initrd-demo", "/t2/guest/guest.elf"):
        t.until(re.escape(path))
    t.until("To leave: exit")
    greeted = t.until(PROMPT).string
    assert "job control" not in greeted, greeted
    t.type("stty size; echo $((40 + 2))\r")
    t.until("\r\n33 99\r\n42\r\n")
    t.type("sh -c 'echo begun; sleep 1000'\r")
    t.until("\r\nbegun\r\n")
    t.type("\x03")
    t.until(PROMPT)
    t.type("echo interrupted $?\r")
    t.until("\r\ninterrupted 130\r\n")
    t.type("sh -c 'echo begun; sleep 1000'\r")
    t.until("\r\nbegun\r\n")
    t.type("\x1a")
    t.until("Stopped")
    t.type("jobs; kill -9 %1\r")
    t.until(r"\[1\].*Stopped.*sleep 1000")
    t.type("testudo run -k /t2/guest/guest.elf -p hello\r")
    t.until("done hello")
    assert t.p.poll() is None
    t.until(PROMPT)
    t.type("exit 7\r")
    assert t.end() == 7
    assert termios.tcgetattr(t.theirs) == t.before
