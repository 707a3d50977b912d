"""Guests that move: a source, a destination, `testudo migrate` between them, and what both sides hold in memory."""

import json
import os
import pathlib
import re
import socket
import struct
import subprocess

import harness
import qmp

HEARTBEAT_GPA = 0x40000
GATE_GPA = 0x48000
HEARTBEAT_MAGIC = 0x7461656274726165
HEARTBEAT_HEAD = struct.Struct("<QII6Q")
HEARTBEAT_CPU = struct.Struct("<8Q")

# This machine's KVM can hold no bit, and is not asked to: the matrix of mitigations has a file of its own.
POLICY = "version: 1\nincoming-cannot: warn\n"

# Exit codes of testudo migrate
MOVED, USAGE, NO_GUEST, REFUSED, SOURCE_RUNS, UNKNOWN = 0, 2, 3, 4, 5, 6


class BusyDisk:
    """A disk that a guest writes and reads back, with new data each time, until it is told to end."""

    SECTORS, LAST = 8192, 65535

    def __init__(self, work, irq):
        self.path = pathlib.Path(work, "disk.img")
        with open(self.path, "wb") as f:
            f.truncate((self.LAST + 1) * 512)
        self.params = f"blk sectors={self.SECTORS} until={self.LAST} irq={irq}"

    def tell_to_end(self):
        with open(self.path, "r+b") as f:
            f.seek(self.LAST * 512)
            f.write(b"!")

    def check(self, console):
        """@console is what the guest wrote wherever it was."""
        rounds = console.count("blk write ")
        assert rounds and console.count("failed=0\n") == console.count("bad_words=0\n") == rounds, console
        assert console.rstrip().endswith("done blk"), console
        held = self.path.read_bytes()[:512 * self.SECTORS]
        assert held == harness.disk_words(0, self.SECTORS, seed=rounds)


class Guest:
    """One testudo process with a name of its own."""

    def __init__(self, work, name, *args, incoming=None, params="heartbeat", mem=64, cpus=1, env=None, prefix=()):
        self.name = name
        self.work = work
        self.incoming = incoming
        self.memory = {}  # flags: what it was opened as, and where RAM begins there
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(work), **(env or {})}
        words = ["run", "--name", name, "--serial", f"file:{work}/{name}.console"]
        if incoming:
            words += ["--incoming", incoming]
        else:
            words += ["-k", str(harness.GUEST), "-p", params, "-m", str(mem), "-c", str(cpus)]
        self.log_path = pathlib.Path(work, name + ".log")
        with open(self.log_path, "wb") as log:
            self.p = subprocess.Popen([*prefix, str(harness.TESTUDO), *words, *map(str, args)], cwd=work,
                                      env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.socket = pathlib.Path(work, "testudo", name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()
        for fd, _ in self.memory.values():
            os.close(fd)
        self.memory.clear()

    def log(self):
        return self.log_path.read_text(errors="replace")

    def console(self):
        path = pathlib.Path(self.work, self.name + ".console")
        return path.read_text(errors="replace") if path.exists() else ""

    def story(self):
        """What there is to know of a guest in which something went wrong: it may have ended by itself."""
        return f"exit code {self.p.poll()}\n{self.log()}\nconsole:\n{self.console()[-2000:]}"

    def until(self, state, why, timeout=harness.TIMEOUT):
        """Wait for a state of this guest or of its process."""
        return harness.until(state, lambda: f"{why()}; {self.story()}", timeout, alive=lambda: self.p.poll() is None)

    def wait_console(self, text, timeout=harness.TIMEOUT):
        self.until(lambda: text in self.console(), lambda: f"no {text!r} in {self.console()!r}", timeout)

    def wait_log(self, text, timeout=harness.TIMEOUT):
        self.until(lambda: text in self.log(), lambda: f"no {text!r}", timeout)

    def end(self, timeout=harness.TIMEOUT):
        self.p.wait(harness.patience(timeout))
        return self.p.returncode

    # ---- memory

    def memory_fd(self, flags=os.O_RDONLY):
        """The memfd of guest RAM."""
        for fd in os.listdir(f"/proc/{self.p.pid}/fd"):
            path = f"/proc/{self.p.pid}/fd/{fd}"
            try:
                if os.readlink(path).startswith("/memfd:guest-ram"):
                    return os.open(path, flags)
            except OSError:
                continue
        raise AssertionError(f"{self.name} has no guest memory: {self.log()}")

    def with_memory(self, flags, at, do):
        """@do(fd, where) for RAM at @at below 3 GiB; a restored guest, which has no memfd, has a map of its file."""
        if flags not in self.memory:
            try:
                self.memory[flags] = self.memory_fd(flags), 0
            except AssertionError:
                start = self.saved_map()
                if start is None:
                    raise
                self.memory[flags] = os.open(f"/proc/{self.p.pid}/mem", flags), start
        fd, start = self.memory[flags]
        return do(fd, start + at)

    def peek(self, at, n):
        return self.with_memory(os.O_RDONLY, at, lambda fd, where: os.pread(fd, n, where))

    def poke(self, at, data):
        assert self.with_memory(os.O_RDWR, at, lambda fd, where: os.pwrite(fd, data, where)) == len(data)

    def fill(self, at, n_mib):
        """RAM from @at on that is no zeroes, without the guest's doing."""
        for mib in range(n_mib):
            self.poke(at + (mib << 20), bytes([mib % 255 + 1]) * (1 << 20))

    def saved_map(self):
        """Where the RAM of a guest from a file is in its process, or None"""
        path = os.path.realpath(self.incoming[5:]) if str(self.incoming).startswith("file:") else None
        try:
            for line in open(f"/proc/{self.p.pid}/maps"):
                words = line.split(None, 5)
                if words[1] == "rw-p" and len(words) == 6 and words[5].strip() == path:
                    return int(words[0].split("-")[0], 16)
        except OSError:
            pass
        return None

    def heartbeat(self):
        """[(count, last_tsc, max_gap_tsc, max_gap_count, pages, generation, errors)] by CPU, and tsc_khz"""
        raw = self.peek(HEARTBEAT_GPA, HEARTBEAT_HEAD.size)
        assert len(raw) == HEARTBEAT_HEAD.size, "the memory file has just been made"
        magic, _, n, khz, *_ = HEARTBEAT_HEAD.unpack(raw)
        assert magic == HEARTBEAT_MAGIC, "the guest's load does not run"
        raw = self.peek(HEARTBEAT_GPA + HEARTBEAT_HEAD.size, n * HEARTBEAT_CPU.size)
        return [c[:7] for c in HEARTBEAT_CPU.iter_unpack(raw)], khz

    def wait_beats(self, n=1000, timeout=harness.TIMEOUT):
        """Wait until every processor has beaten @n times more than now."""
        def beats():
            try:
                return self.heartbeat()[0]
            except (AssertionError, OSError):
                return None

        start = self.until(beats, lambda: f"{self.name} has no heartbeat", timeout)
        now = start

        def more():
            nonlocal now
            now = beats() or now
            return all(b[0] >= a[0] + n for a, b in zip(start, now)) and now

        self.until(more, lambda: f"the heart of {self.name} stands still: {now}", timeout)
        assert all(b[6] == 0 for b in now), "memory lost what was written to it"
        return now

given = set()

def free_uri():
    """tcp:ADDRESS:PORT to listen at. The address is this process's own, so nobody else takes the port meanwhile."""
    address = socket.inet_ntoa(struct.pack(">I", 0x7f800000 | os.getpid() & 0x3fffff))
    while True:
        with socket.socket() as s:
            s.bind((address, 0))
            uri = f"tcp:{address}:{s.getsockname()[1]}"
        if uri not in given:
            given.add(uri)
            return uri

def address_of(uri):
    """(host, port) of such a URI"""
    host, port = uri.removeprefix("tcp:").rsplit(":", 1)
    return host, int(port)


def same_memory(a, b):
    """Are the RAMs of two paused guests the same? Return: index of the first page that differs, or None"""
    fds = [a.memory_fd(), b.memory_fd()]
    try:
        sizes = [os.fstat(fd).st_size for fd in fds]
        assert sizes[0] == sizes[1], sizes
        step = 1 << 20
        for at in range(0, sizes[0], step):
            x, y = (os.pread(fd, step, at) for fd in fds)
            if x != y:
                for page in range(0, step, 4096):
                    if x[page:page + 4096] != y[page:page + 4096]:
                        return (at + page) // 4096
        return None
    finally:
        for fd in fds:
            os.close(fd)

def migrate(source, uri, *args, timeout=120):
    """testudo migrate --json. Return: (exit code, [events], standard error)"""
    p = subprocess.run([str(harness.TESTUDO), "migrate", source.name, uri, "--json", *map(str, args)],
                       env=source.env, cwd=source.work, stdin=subprocess.DEVNULL, capture_output=True,
                       timeout=harness.patience(timeout))
    assert p.returncode != NO_GUEST, f"{p.stderr.decode()}\n{source.name}: {source.story()}"
    events = [json.loads(line) for line in p.stdout.decode().splitlines()]
    return p.returncode, events, p.stderr.decode()

def what_it_does(guest):
    """One line for each thread of a guest that should have done something: name, state and where it waits, and
    seconds that it ran and that it stood ready without a processor."""
    lines = []
    for task in pathlib.Path(f"/proc/{guest.p.pid}/task").glob("*"):
        try:
            name, state = re.search(r"\((.*)\) (\S)", (task / "stat").read_text()).groups()
            ran, ready = (int(word) / 1e9 for word in (task / "schedstat").read_text().split()[:2])
            lines.append(f"{name} {state} {(task / 'wchan').read_text()} ran {ran:.3f} ready {ready:.3f}\n")
        except OSError:
            continue
    return "".join(lines)

def moved(source, destination, uri, *args, timeout=120):
    """Move it, or fail the test with all there is to know. Return: the last event"""
    code, events, err = migrate(source, uri, *args, timeout=timeout)
    assert code == MOVED, f"exit code {code}\n{err}\n{events}\nsource:\n{source.log()}\n" \
                          f"destination:\n{destination.log()}\n{what_it_does(destination)}"
    return events[-1]

def leftovers(work):
    """Names in the run directory of @work's guests: nothing may stay behind."""
    root = pathlib.Path(work, "testudo")
    return sorted(name for name in os.listdir(root) if name[0] != ".") if root.exists() else []

def wait_listening(guest, timeout=20):
    """A destination is ready as soon as its control socket answers: it listens before that."""
    Qmp(guest, timeout).close()

def wait_running(guest):
    """A guest that arrives, or comes from a file, is here when it runs: its control socket answers before that."""
    q = Qmp(guest)
    guest.until(lambda: q.ask("query-status")["status"] == "running", lambda: f"{guest.name} does not run")
    q.close()

class Qmp(qmp.Client):
    """A monitor's client of a guest's control socket, as soon as there is one."""

    def __init__(self, guest, timeout=20):
        def connected():
            try:
                super(Qmp, self).__init__(guest.socket / "qmp.sock", timeout=harness.patience(30))
                return True
            except OSError:
                self.close()
                return False

        guest.until(connected, lambda: f"{guest.name} has no control socket", timeout)

    def close(self):
        self.sock.close()

    def ask(self, command, fd=None, **arguments):
        if fd is None:
            return self.execute(command, **arguments)
        return self.pass_fds(command, [fd], **arguments)

    def migrate(self, uri, channels=2, **options):
        """As testudo migrate does it: connect, pass the sockets, go."""
        names = []
        for number in range(channels + 1):
            kind, rest = uri.split(":", 1)
            if kind == "unix":
                s = socket.socket(socket.AF_UNIX)
                s.connect(rest)
            else:
                s = socket.create_connection(address_of(uri))
            names.append(f"channel{number}")
            self.ask("getfd", fd=s.fileno(), fdname=names[-1])
            s.close()
        arguments = {"uri": f"fd:{names[0]}", "x-testudo-channels": names[1:], **options}
        return self.ask("migrate", **arguments)

    def wait_migration(self, timeout=60):
        state = None

        def ended():
            nonlocal state
            state = self.ask("query-migrate")
            return state["status"] in ("completed", "failed", "cancelled") and state

        return harness.until(ended, lambda: state, timeout)
