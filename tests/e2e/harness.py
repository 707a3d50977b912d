"""Runs testudo with the test guest and keeps what came out of it."""

import fcntl
import functools
import os
import pathlib
import re
import select
import signal
import struct
import subprocess
import tempfile
import termios
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TESTUDO_BUILD", ROOT / "build")).resolve()
TESTUDO = pathlib.Path(os.environ.get("TESTUDO", BUILD / "vmm" / "testudo"))
GUEST = BUILD / "tests" / "guest" / "guest.elf"
FIRST = BUILD / "tests" / "guest" / "first.elf"
SHIM = BUILD / "tests" / "shim" / "libkvm_shim.so"
HOSTS = ROOT / "tests" / "data" / "hosts"

# Whole hosts that tests/shim lays over this machine
OVERLAYS = {"intel": HOSTS / "sapphire-rapids.json", "amd": HOSTS / "epyc-rome.json"}

# Exit codes of testudo run
OFF, VMM_ERROR, USAGE, BAD_INPUT, RESET, CRASH, PANIC = 0, 1, 2, 3, 32, 33, 34

OVERLAY = os.environ.get("TESTUDO_OVERLAY", "none")

SECTOR = 512
TIMEOUT = 60	# s, on a machine that starts a guest in START_S
START_S = 0.05


@functools.cache
def slowness():
    """How much slower than usual this machine is, by the start and end of the smallest guest, at its best; 1 to 5."""
    def start():
        began = time.monotonic()
        subprocess.run([TESTUDO, "run", "-k", FIRST], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=TIMEOUT, check=False)
        return time.monotonic() - began

    return min(max(min(start() for _ in range(3)) / START_S, 1), 5)


def patience(seconds=TIMEOUT):
    """How long to wait here for what takes less than @seconds elsewhere. What is waited for is a state."""
    return seconds * slowness()


def often(times, at_least):
    """How many times to repeat here what is repeated @times on a machine of the usual speed."""
    return max(at_least, round(times / slowness()))


def until(state, why, seconds=TIMEOUT, alive=None, pause=0.005):
    """Wait until @state() is something true, and return that. @why(): what to say when it does not come. @alive(): can
    it still come? Asked first, since what a process did last it did before its end."""
    end = time.monotonic() + patience(seconds)
    while True:
        last = alive is not None and not alive()
        got = state()
        if got:
            return got
        assert not last, f"ended early: {why()}"
        assert time.monotonic() < end, f"not in {patience(seconds):.0f} s: {why()}"
        time.sleep(pause)
        pause = min(pause * 1.2, 0.2)  # who looks all the time takes from what he waits for


def without_mitigation(text):
    """@text less what depends on this host's CPU alone: test_mitigation.py looks at that."""
    return re.sub(r"^testudo: (warning: )?mitigation: .*\n", "", text, flags=re.MULTILINE)


def overlay(facts, mode=None, **values):
    """The environment in which testudo finds itself on the host of the file @facts, or on this machine (None); with
    the KVM of @mode (None: as the file says), and @values of the shim's other variables."""
    env = {"LD_PRELOAD": str(SHIM), **{f"KVM_SHIM_{name.upper()}": str(value) for name, value in values.items()}}
    if facts:
        env["KVM_SHIM_HOST"] = str(facts)
    if mode:
        env["KVM_SHIM"] = mode
    return env


def environment(env):
    """@env as the first words of a command; of another overlay nothing is left."""
    ours = [f"-u{name}" for name in os.environ if name.startswith("KVM_SHIM") and name != "KVM_SHIM_REFUSES"]
    return ["env", *ours, *(f"{name}={value}" for name, value in env.items())]


def holds_nothing(name):
    """The first words of a command for testudo on the host of that name in tests/data/hosts, whose KVM takes no bit."""
    return environment(overlay(HOSTS / f"{name}.json", "drops"))


def preloading(name):
    """The environment of a program under tests/e2e/@name.c, on the overlay if there is one."""
    libraries = [str(BUILD / "tests" / "e2e" / f"{name}.so"), *filter(None, [os.environ.get("LD_PRELOAD")])]
    # a sanitizer's run-time wants to come first; it does not matter here which does
    asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    return {"LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": asan}


def lacking(what):
    """The environment of a KVM that lacks @what (tests/e2e/kvm_lacks.c), on the overlay if there is one."""
    return {**preloading("kvm_lacks"), "KVM_LACKS": what}


class Result:
    """What a run left: exit code (negative: killed by that signal), both streams, peak memory.
    @full_err: with what testudo says about the mitigations on this host"""

    def __init__(self, code, out, err, peak_kib=0):
        self.code = code
        self.raw = out
        self.out = out.decode("latin-1")
        self.full_err = err.decode("utf-8", "replace")
        self.err = without_mitigation(self.full_err)
        self.peak_kib = peak_kib

    @property
    def lines(self):
        return self.out.splitlines()

    @property
    def log(self):
        return self.err.splitlines()

    def facts(self, prefix):
        """The key=value pairs of the first guest line that starts with @prefix."""
        for line in self.lines:
            if line.startswith(prefix):
                return dict(re.findall(r"(\S+?)=(\S*)", line))
        raise AssertionError(f"no line '{prefix}...' in {self}")

    def expect(self, code, last_line):
        """The guest said @last_line in the end, testudo exited with @code."""
        assert self.lines and self.lines[-1] == last_line, str(self)
        assert self.code == code, str(self)
        return self

    def expect_error(self, code, *names):
        """Nothing on stdout, one line on stderr that names every one of @names."""
        assert self.code == code, str(self)
        assert self.out == "", str(self)
        assert len(self.log) == 1, str(self)
        assert self.log[0].startswith("testudo: "), str(self)
        for name in names:
            assert str(name) in self.log[0], f"{name!r} is not in: {self}"
        return self

    def __str__(self):
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def arguments(params, *args, kernel=GUEST):
    return ["run", "-k", str(kernel), "-p", params, *map(str, args)]


def run_raw(words, cwd, stdin=b"", timeout=TIMEOUT, prefix=(), binary=TESTUDO):
    """Run testudo with @words to its end. @stdin: bytes, or a file."""
    slowness()  # is found out before, not while it runs
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        feed = subprocess.PIPE if isinstance(stdin, bytes) and stdin else subprocess.DEVNULL
        p = subprocess.Popen([*prefix, str(binary), *map(str, words)], cwd=cwd, bufsize=0,
                             stdin=feed if isinstance(stdin, bytes) else stdin,
                             stdout=out, stderr=err)
        try:
            if feed == subprocess.PIPE:
                try:
                    p.stdin.write(stdin)
                except BrokenPipeError:  # it ended, or reads no input; without a buffer, close() has nothing to write again
                    pass
            code, peak = wait(p, timeout)
        finally:
            if p.stdin:
                p.stdin.close()
            if p.returncode is None:
                p.kill()
                p.wait()
        out.seek(0)
        err.seek(0)
        return Result(code, out.read(), err.read(), peak)


def wait(p, timeout=TIMEOUT):
    """Like p.wait(), with the peak resident memory (KiB), as it was when it was last looked at: what wait4() tells is no
    less than the size of the process that forked it, which may be this one. So is its own until it has become another."""
    peak, forked = 0, pathlib.Path("/proc/self/comm").read_text()

    def ended():
        nonlocal peak
        status = pathlib.Path(f"/proc/{p.pid}/status").read_text()
        if not status.startswith(f"Name:\t{forked}"):
            peak = max([peak, *map(int, re.findall(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE))])
        return p.poll() is not None and (p.returncode, peak)

    return until(ended, lambda: f"testudo still runs: {p.args}", timeout)


def why_no_kvm():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as e:
        return f"/dev/kvm: {e.strerror}"
    return None


def wait_for(condition, timeout=TIMEOUT, pause=0.005):
    return until(condition, lambda: "what was waited for", timeout, pause=pause)


def unread(pipe):
    """Bytes that wait in @pipe."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


class Live:
    """A testudo that runs; read what it says, write to it, end it."""

    def __init__(self, words, cwd, prefix=(), **streams):
        kwargs = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        kwargs.update(streams)
        self.err = tempfile.TemporaryFile()
        self.p = subprocess.Popen([*prefix, str(TESTUDO), *map(str, words)], cwd=cwd,
                                  stderr=self.err, bufsize=0, **kwargs)
        self.seen = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.p.poll() is None:
            self.p.kill()
            self.p.wait()
        for stream in (self.p.stdin, self.p.stdout, self.err):
            if stream:
                stream.close()

    def read_until(self, text, timeout=TIMEOUT, fd=None):
        """Read from stdout (or @fd) until @text (bytes) was seen; return all seen so far."""
        fd = self.p.stdout.fileno() if fd is None else fd
        end = time.monotonic() + patience(timeout)
        while text not in self.seen:
            left = end - time.monotonic()
            ready = select.select([fd], [], [], max(left, 0))[0]
            assert ready, f"no {text!r} in {patience(timeout):.0f} s; seen {self.seen!r}; {self.stderr()}"
            try:
                more = os.read(fd, 65536)
            except OSError:  # a pty whose other side went away
                more = b""
            assert more, f"end of output before {text!r}; seen {self.seen!r}; {self.stderr()}"
            self.seen += more
        return self.seen

    def stderr(self):
        return without_mitigation(self.full_stderr())

    def full_stderr(self):
        """Where testudo writes next is not moved: the file's offset is one for both."""
        fd = self.err.fileno()
        return os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "replace")

    def wait_log(self, text, timeout=TIMEOUT):
        return until(lambda: text in self.stderr() and self.stderr(), lambda: f"no {text!r} in the log: {self.stderr()}",
                     timeout, alive=lambda: self.p.poll() is None)

    def end(self, sig=signal.SIGTERM, timeout=TIMEOUT):
        """Send @sig (None: nothing) and wait. Return: exit code"""
        if sig:
            self.p.send_signal(sig)
        return wait(self.p, timeout)[0]


def disk_words(sector, n_sectors, seed=1):
    """What the guest's blk command writes to @n_sectors from @sector on."""
    words = range(sector * 64 + seed, (sector + n_sectors) * 64 + seed)
    return b"".join((w * 0x9e3779b97f4a7c15 & (1 << 64) - 1).to_bytes(8, "little") for w in words)


def fnv64(data):
    h = 0xcbf29ce484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001b3 & (1 << 64) - 1
    return h


def make_disk(path, n_bytes=1 << 20):
    with open(path, "wb") as f:
        f.truncate(n_bytes)
    return path
