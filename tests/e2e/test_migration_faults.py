"""
What can go wrong while a guest moves, at each step of the protocol: afterwards exactly one side has it, in the state it
had, with its disk locked; who asked was told cause and cure; nothing is left behind, and the next try succeeds.
"""

import fcntl
import json
import math
import os
import pathlib
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

import faulty
import harness
import moving
from faulty import NAMES, Cut, on

F_OFD_GETLK, F_OFD_SETLK = 36, 37
FLOCK = struct.Struct("hhqqi4x")
# s; for tests in which nothing moves any more, and it does not matter at which frame that begins
STALL = ("--stall-timeout", 1)
# In the order of the protocol; what the guest's owner is when one of them is lost
BEFORE = ["hello", "description", "verdict", "round-end", "state", "finish", "ready"]
AFTER = ["commit", "ack"]


def lock_of(path):
    """Does somebody hold the lock of a writer?"""
    with open(path, "rb") as f:
        raw = fcntl.fcntl(f, F_OFD_GETLK, FLOCK.pack(fcntl.F_RDLCK, 0, 0, 0, 0))
        return FLOCK.unpack(raw)[0] == fcntl.F_WRLCK


def take_lock(path):
    f = open(path, "r+b")
    fcntl.fcntl(f, F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
    return f


class Lab:
    """A source that runs, destinations when they are wanted, and what has to hold afterwards."""

    def __init__(self, work):
        self.work, self.guests, self.killed, self.n = work, [], [], 0
        self.policy = str(pathlib.Path(work, "policy.yaml"))
        pathlib.Path(self.policy).write_text(moving.POLICY)
        self.disk = str(pathlib.Path(work, "disk.img"))
        with open(self.disk, "wb") as f:
            f.truncate(1 << 20)

    def source(self, *args, params="dirty wss=2", mem=40, name="a", beats=True, **kwargs):
        self.a = self.guest(name, *args, params=params, mem=mem, **kwargs)
        if beats:
            self.a.wait_beats(10)
        else:
            moving.wait_listening(self.a)
        self.files, self.threads = faulty.open_files(self.a.p.pid), faulty.threads(self.a.p.pid)
        return self.a

    def guest(self, name, *args, **kwargs):
        g = moving.Guest(self.work, name, "--policy", self.policy, "-d", self.disk, *args, **kwargs)
        self.guests.append(g)
        return g

    def destination(self, *args, kind="unix", **kwargs):
        self.n += 1
        self.uri = f"unix:{self.work}/m{self.n}" if kind == "unix" else moving.free_uri()
        self.way = f"unix:{self.work}/p{self.n}" if kind == "unix" else moving.free_uri()
        self.b = self.guest(f"b{self.n}", *args, incoming=self.uri, **kwargs)
        moving.wait_listening(self.b)
        return self.b

    def proxy(self, **kwargs):
        return faulty.Proxy(self.way, self.uri, **kwargs)

    def migrate(self, *args, **kwargs):
        return moving.migrate(self.a, self.way, *patient(), *args, **kwargs)

    def ask(self, guest, command, **arguments):
        q = moving.Qmp(guest)
        try:
            return q.ask(command, **arguments)
        finally:
            q.close()

    def command(self, *words):
        return subprocess.run([harness.TESTUDO, *words], env=self.a.env, capture_output=True, text=True,
                              timeout=harness.patience())

    def check_here(self, running=True, status=("failed", "cancelled")):
        """The guest goes on at the source as if nothing had been."""
        if running:
            self.a.wait_beats(10)
        else:
            self.stands_still(self.a)
        assert self.ask(self.a, "query-status")["status"] == ("running" if running else "paused")
        state = self.ask(self.a, "query-migrate")
        assert state["status"] in status and state["x-testudo-outcome"] == "here", state
        assert "cpu-throttle-percentage" not in state
        self.check_nothing_left()

    def check_nothing_left(self):
        assert lock_of(self.disk)
        faulty.wait_until(lambda: faulty.threads(self.a.p.pid) == self.threads, faulty.threads(self.a.p.pid))
        faulty.wait_until(lambda: faulty.open_files(self.a.p.pid) == self.files,
                          f"{faulty.open_files(self.a.p.pid)} != {self.files}")
        assert self.runs() == [self.a.name]
        assert self.killed or not [x for x in os.listdir(self.work) if x[0] in "mp" and x[1:].isdigit()]

    def ended(self, code=1):
        """The destination has ended by itself, and said why."""
        assert self.b.end(30) == code, self.b.log()
        if code == 1:
            assert "incoming migration: " in self.b.log(), self.b.log()

    def waits_on(self):
        """Nobody meant it, as long as HELLO was not understood."""
        self.b.wait_log("still waiting")
        self.a.wait_beats(10)
        moving.moved(self.a, self.b, self.uri)
        self.b.wait_beats(10)

    def stands_still(self, guest):
        before = guest.heartbeat()
        time.sleep(0.03)
        assert guest.heartbeat() == before

    def retry(self, *args):
        """Now nothing is in the way."""
        self.destination()
        moving.moved(self.a, self.b, self.uri, *args)
        assert self.a.end() == 0, self.a.log()
        self.b.wait_beats(10)
        assert lock_of(self.disk)
        assert self.runs() == [self.b.name]

    def runs(self):
        """Names in the run directory, less those of which only the next of that name is rid."""
        return [name for name in moving.leftovers(self.work) if name not in self.killed]

    def check_unknown(self, code, err, there):
        """The guest stands still here, until the user has looked."""
        a = self.a
        assert code == moving.UNKNOWN and "unknown" in err and "testudo resume a" in err, (code, err, a.log())
        assert self.ask(a, "query-migrate")["x-testudo-outcome"] == "unknown"
        assert self.ask(a, "query-status")["status"] == "paused"
        self.stands_still(a)
        if there:  # it runs at the destination, and so it cannot be had here
            self.b.wait_beats(10)
            r = self.command("resume", "a")
            assert r.returncode != 0 and "in use by another" in r.stderr, r
            self.stands_still(a)
            r = self.command("stop", "--force", "a")
            assert r.returncode == 0, r
            a.end()
            self.b.wait_beats(10)
            assert lock_of(self.disk) and self.runs() == [self.b.name]
            return
        self.b.end(30)
        code, _, err = moving.migrate(a, f"unix:{self.work}/x")
        assert code == moving.SOURCE_RUNS
        with pytest.raises(RuntimeError, match="outcome is unknown"):
            s = socket.socketpair()
            q = moving.Qmp(a)
            q.ask("getfd", fd=s[0].fileno(), fdname="x")
            q.ask("migrate", uri="fd:x", **{"x-testudo-local": True})
        q.close()
        r = self.command("resume", "a")
        assert r.returncode == 0, r
        a.wait_beats(10)
        self.check_nothing_left()

    def close(self):
        for g in self.guests:
            if g.p.poll() is None:
                g.p.send_signal(signal.SIGCONT)
            g.__exit__()


@pytest.fixture
def lab(work):
    x = Lab(work)
    yield x
    x.close()


def patient():
    """A side that is late is not one that stands still."""
    return ("--stall-timeout", math.ceil(harness.patience(1)))


def cut(data):
    raise Cut


def beside(fn):
    threading.Thread(target=fn, daemon=True).start()


# ---- the connection

CUTS = [(name, how) for name in BEFORE + AFTER for how in ("rst", "fin", "half")
        if how != "half" or name in ("hello", "state", "ready", "commit", "ack")]


@pytest.mark.parametrize("name, how", CUTS, ids=lambda v: v)
def test_cut(lab, name, how):
    lab.source()
    lab.destination(kind="tcp" if how == "rst" else "unix")

    def action(data):
        if how == "half":
            raise Cut(data[:len(data) // 2])
        raise Cut

    with lab.proxy(at=on(name, action), fin=how == "fin") as p:
        code, _, err = lab.migrate()
    if name in AFTER:
        return lab.check_unknown(code, err, name == "ack")
    assert code == moving.SOURCE_RUNS and "it goes on at the source" in err, (code, err)
    assert err.count("\n") == 1 and "closed" in err, err
    if name == "hello":
        return lab.waits_on()
    lab.ended()
    lab.check_here()
    lab.retry()


@pytest.mark.parametrize("name", BEFORE + AFTER)
def test_stall(lab, name):
    """Nothing moves any more; the destination hears the end when the source has given up."""
    lab.source()
    lab.destination()

    with lab.proxy(at=on(name, lambda data: p.stall())) as p:
        code, _, err = lab.migrate(*(() if name == "hello" or name in AFTER else STALL))
    if name in AFTER:
        return lab.check_unknown(code, err, name == "ack")
    assert code == moving.SOURCE_RUNS and " byte for " in err, (code, err)
    if name == "hello":
        return lab.waits_on()
    lab.ended()
    lab.check_here()


@pytest.mark.parametrize("at", ["0", "3"])
@pytest.mark.parametrize("how", ["cut", "stall", "flip-magic", "flip-head", "flip-table", "flip-page", "garbage",
                                 "short", "twice", "round", "behind"])
def test_chunk(lab, how, at):
    """Of memory, one that is damaged, and one that never comes."""
    lab.source(params="dirty wss=4")
    lab.destination(kind="tcp" if how == "cut" else "unix")
    done = []

    def chunk(channel, number, head, rest):
        runs = struct.unpack_from("<H", head, 6)[0]
        if done or number < int(at) or not runs or (how == "twice" and len(rest) == runs * faulty.RUN):
            return head, rest  # what is zero may come twice
        done.append(True)
        table, pages = rest[:runs * faulty.RUN], rest[runs * faulty.RUN:]
        if how == "cut":
            raise Cut
        if how == "stall":
            p.stall()
        if how == "flip-magic":
            head = faulty.flipped(head, 0)
        if how == "flip-head":
            head = faulty.flipped(head, 9)
        if how == "flip-table":
            table = faulty.flipped(table, 10)
        if how == "flip-page":
            pages = faulty.flipped(pages, len(pages) // 2) if pages else faulty.flipped(pages or b"\0", 0)
        if how == "garbage":
            return random.Random(1).randbytes(len(head)), rest
        if how == "short":
            return head, table + pages[:-1]
        if how == "twice":
            return head + table + pages + head, table + pages
        if how in ("round", "behind"):
            if how == "round":
                head = head[:8] + struct.pack("<I", 77) + head[12:28]
            else:
                table = struct.pack("<Q", 1 << 40) + table[8:]
                head = head[:16] + struct.pack("<I", faulty.crc32c(table)) + head[20:28]
            head += struct.pack("<I", faulty.crc32c(head)) if len(head) == 28 else b""
        return head, table + pages

    with lab.proxy(chunk=chunk) as p:
        code, _, err = lab.migrate(*(STALL if how in ("stall", "short") else ()))
        assert not p.error, p.error
    if how == "twice":  # the count of pages tells
        assert "pages in" in err, err
    word = {"flip-magic": "0x", "garbage": "0x", "flip-head": "head has a wrong checksum",
            "flip-table": "table has a wrong checksum", "flip-page": "wrong checksum", "round": "round 77",
            "behind": "the guest has"}.get(how, "")
    assert code == moving.SOURCE_RUNS and word in err, (code, err)
    lab.ended()
    lab.check_here()
    if how in ("cut", "flip-page"):
        lab.retry()


# ---- what comes is not what was sent

def rehead(data, **change):
    kind, flags, length = struct.unpack_from("<HHI", data)
    head = struct.pack("<HHI", change.get("kind", kind), change.get("flags", flags), change.get("length", length))
    head += data[8:12]
    return head + struct.pack("<I", faulty.crc32c(head)) + data[16:]


DAMAGE = {
    "flip-head": (lambda d: faulty.flipped(d, 5), "head has checksum"),
    "flip-payload": (lambda d: faulty.flipped(d, 16 + (len(d) - 16) // 2), "should have checksum"),
    "unknown": (lambda d: faulty.frame(777, b"?") + d, "777"),
    "oversized": (lambda d: rehead(d, length=0xfffffff0), "bytes; it has"),
    "flags": (lambda d: rehead(d, flags=9), "flags 0x9"),
    "garbage": (lambda d: random.Random(7).randbytes(len(d) + 16), "checksum"),
    "twice": (lambda d: d + d, ""),
    "wrong-way": (lambda d: None, "may send"),
}


# all at the ends and in the middle, what most depends on the place at each
DAMAGED = [(name, how) for name in BEFORE + AFTER for how in DAMAGE
           if name in ("hello", "verdict", "state", "commit") or how in ("flip-payload", "twice")]


@pytest.mark.parametrize("name, how", DAMAGED)
def test_damaged_frame(lab, name, how):
    action, word = DAMAGE[how]
    from_source = name not in ("verdict", "ready", "ack")
    if how == "wrong-way":  # a frame that the other side alone may send, before the right one
        wrong = faulty.frame(faulty.ACK if from_source else faulty.COMMIT, bytes(8))
        action = lambda d: wrong + d
    lab.source()
    lab.destination()
    with lab.proxy(at=on(name, action)) as p:
        code, _, err = lab.migrate()
        assert not p.error, p.error
        if name == "ready" and how == "twice":  # the source has ended before its last words are through
            harness.wait_for(lambda: faulty.COMMIT in p.passed)
    if name == "commit" and how == "twice" or name == "ack" and how == "twice":
        assert code == moving.MOVED, (code, err)  # nobody listens any more
        lab.b.wait_beats(10)
        return
    if name == "commit":  # the destination says that it does not run the guest
        assert code == moving.SOURCE_RUNS, (code, err)
    if name == "ack" or name == "ready" and how == "twice":
        return lab.check_unknown(code, err, True)
    assert code == moving.SOURCE_RUNS and word in err and "it goes on at the source" in err, (code, err)
    if name == "hello" and how != "twice":
        return lab.waits_on()
    lab.ended()
    assert word in lab.b.log() or not from_source, lab.b.log()
    lab.check_here()


@pytest.mark.parametrize("name", BEFORE + AFTER)
def test_unknown_frames_that_may_be_skipped(lab, name):
    lab.source()
    lab.destination()
    extra = faulty.frame(777, b"of a later version", flags=0)
    with lab.proxy(at=on(name, lambda d: extra + extra + d)):
        code, _, err = lab.migrate()
    assert code == moving.MOVED, err
    lab.b.wait_beats(10)


def test_frames_out_of_order(lab):
    lab.source()
    lab.destination()
    kept = []

    def at(kind, data):
        if kind == NAMES["state"]:
            kept.append(data)
            return b""
        return data + kept.pop() if kind == NAMES["finish"] else data

    with lab.proxy(at=at):
        code, _, err = lab.migrate()
    assert code == moving.SOURCE_RUNS and "finish frame where state is due" in err, err
    lab.ended()
    lab.check_here()
    lab.retry()


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_wrong_version(lab, channel):
    lab.source()
    lab.destination()
    head = lambda number, data: data[:8] + struct.pack("<H", 9) + data[10:] if number == channel else data
    with lab.proxy(head=head):
        code, _, err = lab.migrate()
    assert code == moving.SOURCE_RUNS, err
    assert "version 9, this testudo reads version 1" in lab.b.log(), lab.b.log()
    if channel == 0:
        assert "version 9, this testudo reads version 1" in err, err
        moving.moved(lab.a, lab.b, lab.uri)
        return
    lab.ended()
    lab.check_here()


def test_small_pieces(lab):
    """A byte at a time on all channels, for two pages of each chunk: slow, and right."""
    lab.source(params="heartbeat", mem=2)
    lab.destination(kind="tcp")
    with lab.proxy(split=1):
        code, _, err = lab.migrate("--downtime-ms", 10000)
    assert code == moving.MOVED, err
    lab.b.wait_beats(10)


def test_odd_pieces(lab):
    lab.source()
    lab.destination()
    with lab.proxy(split=1009):
        code, _, err = lab.migrate("--downtime-ms", 10000)
    assert code == moving.MOVED, err
    lab.b.wait_beats(10)


@pytest.mark.parametrize("backwards", [3, 2])
def test_connections_overtake(lab, backwards):
    """Data channels that are there before the control channel, and the second before the first."""
    lab.source()
    lab.destination(kind="tcp")
    with lab.proxy(backwards=backwards):
        code, _, err = lab.migrate("--channels", backwards - 1, "--downtime-ms", 10000)
    assert code == moving.MOVED, err
    lab.b.wait_beats(10)


@pytest.mark.parametrize("what, word", [(faulty.frame(faulty.FAIL, b"\5\0\3\0why"), "the source cancelled: why"),
                                        (b"x" * 16, "head has checksum")], ids=["cancel", "garbage"])
def test_control_is_heard_while_memory_comes(lab, what, word):
    """Else the marks of many rounds would fill the connection, and a source that gives up is not heard."""
    lab.source(params="heartbeat", mem=64)
    lab.a.fill(32 << 20, 16)
    lab.destination()

    def action():
        p.control.sendall(what)
        lab.b.end()

    with at_phase(lab, "chunk", action) as p:
        code, _, err = lab.migrate("--stall-timeout", 60)
    assert code == moving.SOURCE_RUNS, err
    lab.ended()
    assert word in lab.b.log(), lab.b.log()
    lab.check_here()


# ---- processes

HOLD = BEFORE + AFTER


@pytest.mark.parametrize("name, how", [(n, h) for n in HOLD for h in ("kill", "term")] + [("verdict", "quit")])
def test_destination_ends(lab, name, how):
    lab.source()
    lab.destination()

    def action(data):
        if how == "kill":
            lab.b.p.kill()
        elif how == "term":
            lab.b.p.terminate()
        else:
            lab.ask(lab.b, "quit")
        lab.b.end()
        return data

    with lab.proxy(at=on(name, action)):
        code, _, err = lab.migrate()
    lab.killed += [lab.b.name] if how == "kill" else []
    if name == "ack":  # it had the guest, and has lost it as any process that is killed
        assert code == moving.MOVED, (code, err)
        return
    if name in ("ready", "commit") and how == "kill":
        return lab.check_unknown(code, err, False)
    assert code == moving.SOURCE_RUNS and "it goes on at the source" in err, (code, err)
    if how == "kill":
        # a socket and a run directory of a process that was killed go with the next of its name
        for path in pathlib.Path(lab.work).glob("m[0-9]*"):
            path.unlink()
        lab.a.wait_beats(10)
        assert lock_of(lab.disk)
        return lab.retry()
    lab.check_here()


@pytest.mark.parametrize("how", ["kill", "term"])
@pytest.mark.parametrize("name", HOLD)
def test_source_ends(lab, name, how):
    lab.source()
    lab.destination()

    def action(data):
        lab.a.p.kill() if how == "kill" else lab.a.p.terminate()
        if how == "kill" or name in BEFORE:  # one that has sent COMMIT waits for the answer
            lab.a.end()
        return data

    with lab.proxy(at=on(name, action)):
        code, _, err = lab.migrate()
        lab.a.end()
        if name in AFTER:
            lab.b.wait_beats(10)
    if name in AFTER:
        assert code in (moving.UNKNOWN, moving.MOVED), err
        assert lock_of(lab.disk)
        return
    assert code == (moving.UNKNOWN if how == "kill" else moving.SOURCE_RUNS), (code, err)
    assert "ended" in err, err
    assert not lock_of(lab.disk)
    if name == "hello" and "still waiting" in lab.b.log():  # the end was there first
        return
    lab.ended()


@pytest.mark.parametrize("name", ["description", "state", "finish"])
def test_destination_is_stopped(lab, name):
    """By SIGSTOP, until the source has given up: it does not take the guest then."""
    lab.source()
    lab.destination()

    def action(data):
        lab.b.p.send_signal(signal.SIGSTOP)
        return data

    with lab.proxy(at=on(name, action)):
        code, _, err = lab.migrate(*STALL)
        assert code == moving.SOURCE_RUNS and re.search("sent no byte for 1000 ms|moved a byte for 1 s", err), err
        lab.a.wait_beats(10)
        assert lock_of(lab.disk)
        lab.b.p.send_signal(signal.SIGCONT)
        lab.ended()
    lab.check_here()


def test_destination_is_stopped_after_commit(lab):
    lab.source()
    lab.destination()

    def action(data):
        lab.b.p.send_signal(signal.SIGSTOP)
        return data

    with lab.proxy(at=on("commit", action)):
        code, _, err = lab.migrate()
        lab.stands_still(lab.a)
        lab.b.p.send_signal(signal.SIGCONT)
        lab.b.wait_beats(10)
    lab.check_unknown(code, err, True)


@pytest.mark.parametrize("name", ["verdict", "round-end", "ready", "ack"])
def test_source_is_stopped(lab, name):
    lab.source()
    lab.destination()

    def action(data):
        lab.a.p.send_signal(signal.SIGSTOP)
        beside(lambda: (time.sleep(0.3), lab.a.p.send_signal(signal.SIGCONT)))
        return data

    with lab.proxy(at=on(name, action)):
        code, _, err = lab.migrate()
    assert code == moving.MOVED, err
    lab.b.wait_beats(10)


# ---- the user

PHASES = ["hello", "verdict", "chunk", "round-end", "state", "finish", "ready", "commit", "ack"]


def at_phase(lab, phase, action, **kwargs):
    """A proxy that does @action once in this phase of the migration, and then goes on."""
    done, lock = [], threading.Lock()

    def chunk(channel, number, head, rest):
        with lock:  # the other channels wait as well
            if not done:
                done.append(True)
                action()
        return head, rest

    def then(data):
        action()
        return data

    return lab.proxy(chunk=chunk, **kwargs) if phase == "chunk" else lab.proxy(at=on(phase, then), **kwargs)


@pytest.mark.parametrize("phase", PHASES)
def test_cancel(lab, phase):
    lab.source()
    lab.destination()
    answer = []

    def action():
        try:
            answer.append(lab.ask(lab.a, "migrate_cancel"))
            faulty.wait_until(lambda: lab.ask(lab.a, "query-migrate")["status"] == "cancelled", "not cancelled")
        except RuntimeError as e:
            answer.append(str(e))

    with at_phase(lab, phase, action):
        code, events, err = lab.migrate()
    if phase in AFTER:
        assert code == moving.MOVED and "too late" in answer[0], (code, answer, err)
        lab.b.wait_beats(10)
        return
    assert code == moving.SOURCE_RUNS and "cancelled" in err and events[-1]["status"] == "cancelled", (err, events)
    if phase == "hello":
        return lab.waits_on()
    lab.ended()
    lab.check_here(status=("cancelled",))
    lab.retry()


def client(lab, **kwargs):
    words = [harness.TESTUDO, "migrate", lab.a.name, lab.way, "--json", *map(str, patient())]
    return subprocess.Popen(words, env=lab.a.env, cwd=lab.work, stdin=subprocess.DEVNULL,
                            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs})


@pytest.mark.parametrize("phase, sig", [("verdict", signal.SIGINT), ("chunk", signal.SIGINT), ("chunk", signal.SIGTERM),
                                        ("chunk", signal.SIGHUP), ("ready", signal.SIGINT)])
def test_signal_for_the_client(lab, phase, sig):
    lab.source()
    lab.destination()
    entered, go = threading.Event(), threading.Event()

    def action():
        entered.set()
        go.wait(harness.patience())

    with at_phase(lab, phase, action):
        c = client(lab)
        assert entered.wait(harness.patience())
        c.send_signal(sig)
        faulty.wait_until(lambda: lab.ask(lab.a, "query-migrate")["status"] == "cancelled", "not cancelled")
        go.set()
        _, err = c.communicate(timeout=harness.patience())
    assert c.returncode == moving.SOURCE_RUNS and b"cancelled" in err, (c.returncode, err)
    lab.ended()
    lab.check_here(status=("cancelled",))


def test_client_is_killed(lab):
    """The migration goes on; what stays of the source does not run."""
    lab.source()
    lab.destination()
    entered, go = threading.Event(), threading.Event()

    def action():
        entered.set()
        go.wait(harness.patience())

    with at_phase(lab, "chunk", action):
        c = client(lab)
        assert entered.wait(harness.patience())
        c.kill()
        c.communicate()
        go.set()
        lab.b.wait_beats(10)
        faulty.wait_until(lambda: lab.ask(lab.a, "query-status")["status"] == "postmigrate", "does not end")
    assert lab.command("resume", "a").returncode != 0
    lab.stands_still(lab.a)
    lab.ask(lab.a, "quit")
    assert lab.a.end() == 0


def test_client_without_a_reader(lab):
    lab.source()
    lab.destination()
    r, w = os.pipe()
    os.close(r)
    with lab.proxy():
        c = client(lab, stdout=w, stderr=w)
        os.close(w)
        assert c.wait(harness.patience()) == moving.MOVED
    assert lab.a.end() == 0
    lab.b.wait_beats(10)


# ---- the guest

ENDS = {"poweroff": harness.OFF, "reset": None, "panic": harness.PANIC, "triple": harness.CRASH}


@pytest.mark.parametrize("phase", ["verdict", "chunk"])
@pytest.mark.parametrize("how", ENDS)
def test_guest_ends_meanwhile(lab, how, phase):
    lab.source(params=f"heartbeat gate=1 end={how}", mem=64)
    lab.a.fill(32 << 20, 16)
    lab.destination()
    code = ENDS[how]

    def action():
        lab.a.poke(moving.GATE_GPA, struct.pack("<I", 1))
        if code is None:  # it begins again
            faulty.wait_until(lambda: "cancelled" in lab.ask(lab.a, "query-migrate")["status"], "goes on")
        else:
            lab.a.end()

    with at_phase(lab, phase, action):
        client_code, _, err = lab.migrate("--stall-timeout", 60)
    assert client_code == moving.SOURCE_RUNS, (client_code, err, lab.a.log())
    assert "ended" in err, err
    lab.ended()
    if code is not None:
        assert lab.a.end() == code, lab.a.log()
        assert moving.leftovers(lab.work) == []
        return
    faulty.wait_until(lambda: lab.ask(lab.a, "query-status")["status"] == "running", "does not run")
    assert lock_of(lab.disk)


@pytest.mark.parametrize("name", ["verdict", "state", "ready"])
def test_paused_guest_stays_paused(lab, name):
    lab.source()
    lab.ask(lab.a, "stop")
    lab.destination()
    with lab.proxy(at=on(name, cut)):
        code, _, err = lab.migrate()
    assert code == moving.SOURCE_RUNS and "it stays paused at the source" in err, err
    lab.ended()
    lab.check_here(running=False)
    lab.ask(lab.a, "cont")
    lab.a.wait_beats(10)
    lab.retry()


def test_guest_that_never_ran(lab):
    lab.source("-S", beats=False)
    lab.destination()
    with lab.proxy(at=on("ready", cut)):
        code, _, err = lab.migrate()
    assert code == moving.SOURCE_RUNS and "it stays paused at the source" in err, err
    lab.ended()
    lab.destination()
    moving.moved(lab.a, lab.b, lab.uri)
    assert lab.ask(lab.b, "query-status")["status"] == "paused"
    lab.ask(lab.b, "cont")
    lab.b.wait_beats(10)


def test_reset_of_a_paused_guest_while_it_moves(lab):
    lab.source()
    lab.ask(lab.a, "stop")
    lab.destination()
    with at_phase(lab, "verdict", lambda: lab.ask(lab.a, "system_reset")):
        code, _, err = lab.migrate()
    assert code == moving.SOURCE_RUNS, err
    lab.ended()
    assert lab.ask(lab.a, "query-status")["status"] == "prelaunch"
    assert lock_of(lab.disk)


# ---- the destination's host

def test_disk_is_taken_in_between(lab):
    """By a third one, which lets go again: the guest had to wait for it, no more."""
    lab.source()
    lab.destination()

    def action(data):
        thief = take_lock(lab.disk)
        beside(lambda: (lab.b.wait_log("is in use"), thief.close()))
        return data

    with lab.proxy(at=on("finish", action)):
        code, _, err = lab.migrate()
    assert code == moving.SOURCE_RUNS and "disk.img' is in use" in err and "it goes on at the source" in err, err
    lab.ended()
    lab.check_here()
    lab.retry()


def test_disk_is_taken_for_good(lab):
    lab.source()
    lab.destination()
    thief = []

    def action(data):
        thief.append(take_lock(lab.disk))
        return data

    with lab.proxy(at=on("finish", action)):
        code, _, err = lab.migrate(*STALL)
    assert code == moving.SOURCE_RUNS and "disk.img' is in use" in err and "it stays paused at the source" in err, err
    lab.ended()
    lab.stands_still(lab.a)
    r = lab.command("resume", "a")
    assert r.returncode != 0 and "in use by another" in r.stderr, r
    lab.stands_still(lab.a)
    thief.pop().close()
    assert lab.command("resume", "a").returncode == 0
    lab.check_here()
    lab.retry()


def used_address_space(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmSize:"):
            return int(line.split()[1]) << 10
    raise AssertionError


def test_destination_without_memory(lab):
    lab.source()
    b = lab.destination()
    limit = used_address_space(b.p.pid) + (4 << 20)
    resource.prlimit(b.p.pid, resource.RLIMIT_AS, (limit, limit))
    with lab.proxy():
        code, _, err = lab.migrate()
    assert code == moving.SOURCE_RUNS and ("ulimit -v" in err or "memory" in err), err
    lab.ended()
    lab.check_here()
    lab.retry()


@pytest.mark.parametrize("room", [0, 1, 3, 6, 9])
def test_destination_without_descriptors(lab, room):
    lab.source()
    b = lab.destination()
    limit = len(os.listdir(f"/proc/{b.p.pid}/fd")) + room
    resource.prlimit(b.p.pid, resource.RLIMIT_NOFILE, (limit, limit))
    with lab.proxy():
        code, _, err = lab.migrate()
    assert code == moving.SOURCE_RUNS, err
    lab.ended()
    assert "Too many open files" in b.log(), b.log()
    lab.check_here()


def test_device_is_missing_there(lab):
    lab.source()
    lab.destination("--no-rng")
    with lab.proxy():
        code, _, err = lab.migrate()
    assert code == moving.SOURCE_RUNS and "virtio-rng" in err, err
    lab.ended()
    lab.check_here()
    lab.retry()


@pytest.mark.shim
def test_policy_refuses(lab):
    lab.source(prefix=harness.holds_nothing("icelake-server"))
    pathlib.Path(lab.policy).write_text("version: 1\n")
    lab.destination(prefix=harness.holds_nothing("sapphire-rapids"))
    with lab.proxy():
        code, _, err = lab.migrate()
    assert code == moving.REFUSED and "BHI_DIS_S" in err and "it goes on at the source" in err, err
    lab.ended(4)
    lab.check_here()


# ---- more than one

def test_names_go_round(lab):
    """A to B to C to A, with a failure at each."""
    here = lab.source(name="a")
    for name in ("b", "c", "a"):
        lab.a = here
        lab.destination()
        with lab.proxy(at=on("ready", cut)):
            assert lab.migrate()[0] == moving.SOURCE_RUNS
        lab.ended()
        uri = f"unix:{lab.work}/to-{name}"
        there = lab.guest(name, incoming=uri)
        moving.wait_listening(there)
        moving.moved(here, there, uri)
        assert here.end() == 0
        there.wait_beats(10)
        assert moving.leftovers(lab.work) == [name]
        here = there


def test_local_hand_over_that_fails(lab):
    """The memory is shared until then, and the guest checks all of it."""
    lab.source(params="dirty wss=4", mem=64)
    for name in ("verdict", "state", "ready"):
        lab.destination()
        # descriptors do not pass through a proxy: the destination is stopped instead
        monitor = moving.Qmp(lab.a)
        monitor.ask("migrate-set-parameters", **{"x-testudo-stall-timeout": 1})
        lab.b.p.send_signal(signal.SIGSTOP)
        monitor.migrate(lab.uri, channels=0, **{"x-testudo-local": True})
        if name == "state":
            monitor.ask("migrate_cancel")
        if name == "ready":
            lab.b.p.kill()
            lab.b.p.wait()
            os.unlink(lab.uri[5:])
        assert monitor.wait_migration()["status"] in ("failed", "cancelled")
        monitor.close()
        if name != "ready":
            lab.b.p.send_signal(signal.SIGCONT)
            lab.b.p.terminate()
            lab.b.end()
        lab.a.wait_beats(100)
    lab.destination()
    moving.moved(lab.a, lab.b, lab.uri, "--local")
    lab.b.wait_beats(100)


def listen(guest, into):
    """All events of a guest, until its control socket closes."""
    q = moving.Qmp(guest)
    q.sock.settimeout(None)

    def run():
        while (message := q.message()) is not None:
            into.append(message)

    t = threading.Thread(target=run, daemon=True)
    t.start()
    return t


def statuses(events):
    """Of a migration, without the pauses that it took back: then it was active once more."""
    found = " ".join(e["data"]["status"] for e in events if e.get("event") == "MIGRATION")
    return found.replace("device active ", "").split()


def test_events_on_both_sides(lab):
    lab.source()
    lab.destination()
    here, there = [], []
    t = [listen(lab.a, here), listen(lab.b, there)]
    with lab.proxy(at=on("ready", cut)):
        assert lab.migrate()[0] == moving.SOURCE_RUNS
    lab.ended()
    t[1].join(harness.patience())
    faulty.wait_until(lambda: "RESUME" in [e["event"] for e in here], here)
    assert statuses(here) == ["setup", "active", "device", "failed"], here
    assert statuses(there) == ["active", "failed"], there
    names = [e["event"] for e in here]
    assert names.index("STOP") < names.index("RESUME") < len(names), names
    here.clear()
    there.clear()
    lab.destination()
    t.append(listen(lab.b, there))
    moving.moved(lab.a, lab.b, lab.uri)
    lab.a.end()
    t[0].join(harness.patience())
    assert statuses(here) == ["setup", "active", "device", "completed"], here
    assert [e["event"] for e in here][-1] == "SHUTDOWN"
    faulty.wait_until(lambda: statuses(there) == ["active", "completed"], there)
    assert "RESUME" in [e["event"] for e in there]
