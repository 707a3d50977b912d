"""
Every option of `testudo run` alone, all others at their defaults: the guest starts, shows what the option did, moves
to a destination that was given no more than what belongs to a host, is saved there and restored; at both ends it is
reset, and finds itself in the machine that it had before. A default that only works because tests always give the
option is found here.
"""

import json
import os
import pathlib
import re
import socket
import subprocess

import pytest

import harness
import moving
from test_net import net  # noqa: F401, a fixture

HELLO = "hello end=hlt"
INFO = "net op=info end=hlt"
DISK = "blk end=hlt"


class Case:
    """@words: the option. @there: what the destination is given of it, since it is the host's; @params: the guest's
    command. @says: what its console has then. @goes: how far a guest with it goes: "moves" (moved, saved, restored),
    "stays" (nothing to move: what the option does is done, or the guest is not this host's), or a function for one
    that is a test of its own."""

    def __init__(self, words, there=(), params=HELLO, says="done", check=None, goes="moves"):
        self.words, self.there, self.params, self.says, self.check, self.goes = words, there, params, says, check, goes


def log_has(text):
    return lambda guest: guest.wait_log(text)


def file_has(name, text):
    """The file, which may be replaced at any time, has @text in it."""
    def check(guest):
        path = pathlib.Path(guest.work, name)
        guest.until(lambda: path.exists() and text in path.read_bytes(), lambda: f"{name} without {text}")
    return check


def ran_without(text):
    def check(guest):
        assert text not in guest.console(), guest.console()
    return check


def answers(command, want):
    def check(guest):
        q = moving.Qmp(guest)
        guest.until(lambda: want(q.ask(command)), lambda: f"{command}: {q.ask(command)}")
        q.close()
    return check


def is_sandboxed(yes):
    def check(guest):
        status = pathlib.Path(f"/proc/{guest.p.pid}/status").read_text()
        assert ("Seccomp:\t2" in status) == yes, status
    return check


# One row a use of an option. Which options there are is the program's own to say: test_every_option_has_a_case.
CASES = {
    "nothing": Case([]),
    "--kernel": Case([]),  # every case gives it, as there is nothing to start without one
    "--initrd": Case(["-i", "initrd"], there=["-i", "initrd"], says=r"initrd start=\S+ size=4096 "),
    "--params": Case(["-p", "quiet"], says="cmdline=.* quiet"),
    "--cpus": Case(["-c", "3"], says="cpus=3 "),
    "--mem": Case(["-m", "96"], says="memmap start=0x100000 size=0x5f00000 "),
    "--disk": Case(["-d", "disk.img"], there=["-d", "disk.img"], params=DISK, says=r"blk slot=0 .* ro=0 .* serial=\n"),
    "--disk ro": Case(["-d", "disk.img,ro"], there=["-d", "disk.img"], params=DISK, says="ro=1"),
    "--disk direct": Case(["-d", "disk.img,direct"], there=["-d", "disk.img"], params=DISK, says="blk slot=0"),
    "--disk direct there": Case(["-d", "disk.img"], there=["-d", "disk.img,direct"], params=DISK, says="blk slot=0"),
    "--disk format": Case(["-d", "disk.img,format=raw"], there=["-d", "disk.img"], params=DISK, says="blk slot=0"),
    "--disk serial": Case(["-d", "disk.img,serial=D1"], there=["-d", "disk.img"], params=DISK, says="serial=D1\n"),
    "--network": Case(["-n", "tap=t0"], there=["-n", "tap=t1"], params=INFO, says="net slot=0 .* mac=.[26ae]:"),
    "--network mac": Case(["-n", "tap=t0,mac=52:54:00:01:02:03"], there=["-n", "tap=t1"], params=INFO,
                          says="mac=52:54:00:01:02:03"),
    "--serial file": Case(["--serial", "file:con"], check=file_has("con", b"done hello"), says=""),
    "--serial pty": Case(["--serial", "pty"], check=log_has("/dev/pts/"), says=""),
    "--serial unix": Case(["--serial", "unix:con.sock"], says="",
                          check=lambda g: g.until(pathlib.Path(g.work, "con.sock").is_socket, lambda: "no socket")),
    "--serial none": Case(["--serial", "none"], says=""),
    "--name": Case(["--name", "web"], check=answers("query-name", lambda a: a == {"name": "web"})),
    "--incoming": Case([]),  # every case that moves
    "--paused": Case(["-S"], goes="paused"),
    "--daemonize": Case(["--daemonize"], goes="daemon"),
    "--ready-fd": Case(["--ready-fd", "1"], check=lambda g: g.wait_console("ready name=guest-")),
    "--verify-snapshot": Case([]),  # every guest that is restored here
    "--clock-realtime": Case([]),  # those, too
    "--dump-dtb": Case(["--dump-dtb", "tree"], check=file_has("tree", b"testudo,machine-v1")),
    "--no-reboot": Case(["--no-reboot"], params="hello end=reset", goes="ends"),
    "--hugepages": Case(["--hugepages", "-m", "64"], goes="huge"),
    "--prealloc": Case(["--prealloc", "-m", "64"]),
    "--dirty-ring": Case(["--dirty-ring", "1024"], goes="ring"),
    "--no-rng": Case(["--no-rng"]),
    "--no-rng with a disk": Case(["--no-rng", "-d", "disk.img"], there=["-d", "disk.img"], params=DISK, says="blk slot=0"),
    "--no-sandbox": Case(["--no-sandbox"], check=is_sandboxed(False)),
    "--cpu": Case(["--cpu", "host,-rdrand"], params="cpuid leaf=1 end=hlt", says="ecx=0x[89ab]"),
    "--policy": Case(["--policy", "policy.yaml"]),
    "--host-facts": Case(["--host-facts", "facts.json"]),
    "--mitigation-report": Case(["--mitigation-report", "report.json"], check=file_has("report.json", b'"vcpus"')),
    "--kvm-cap-force-spec-ctrl": Case(["--kvm-cap-force-spec-ctrl", "60000"]),
    "--verbose": Case(["-v"], check=log_has("debug: ")),
    "--quiet": Case(["-q"], check=lambda g: g.log() == "" or pytest.fail(g.log())),
    "--help": Case(["--help"], goes="ends"),
}


class Plain(moving.Guest):
    """A guest with nothing but @words: no name, no console of its own."""

    def __init__(self, work, words, number, incoming=None, prefix=()):
        self.work, self.incoming, self.memory = work, incoming, {}
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(work)}
        self.log_path = pathlib.Path(work, f"{number}.log")
        self.console_path = pathlib.Path(work, f"{number}.out")
        more = ["--incoming", incoming] if incoming else []
        with open(self.log_path, "wb") as log, open(self.console_path, "wb") as out:
            self.p = subprocess.Popen([*prefix, str(harness.TESTUDO), "run", *words, *more, str(harness.GUEST)], cwd=work,
                                      env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=log)
        self.called = words[words.index("--name") + 1] if "--name" in words else None

    @property
    def name(self):
        return self.called or f"guest-{self.p.pid}"

    @property
    def socket(self):
        return pathlib.Path(self.work, "testudo", self.name)

    def console(self):
        return self.console_path.read_text(errors="replace")

    def lives(self):
        """What each life of the guest wrote, from its first word to "done"."""
        return re.findall(r"^(?:(?!done |ready ).*\n)*done \S+\n", self.console(), re.MULTILINE)


def options():
    """The options of testudo run, by its own words."""
    text = subprocess.run([harness.TESTUDO, "run", "--help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  (?:-\w, |    )(--[\w-]+)", text, re.MULTILINE)


@pytest.mark.nokvm
def test_every_option_has_a_case():
    found = options()
    assert len(found) > 20, found
    assert {name.split()[0] for name in CASES} - {"nothing"} == set(found)


@pytest.fixture
def things(work, policy):
    """What the options name, in @work."""
    harness.make_disk(pathlib.Path(work, "disk.img"))
    pathlib.Path(work, "initrd").write_bytes(bytes(4096))
    facts = subprocess.run([harness.TESTUDO, "host", "--json"], capture_output=True, check=True).stdout
    pathlib.Path(work, "facts.json").write_bytes(facts)
    return work


@pytest.fixture
def start(things, request):
    """start(words, incoming=..): a Plain guest, ended with the test."""
    guests = []

    def begin(words, incoming=None, prefix=()):
        g = Plain(things, [*words], len(guests), incoming, prefix)
        guests.append(g)
        return g

    yield begin
    for g in guests:
        g.__exit__()


@pytest.fixture
def taps(request):
    """The words in front of testudo for a case with taps: a namespace with two of them."""
    if "tap=" not in " ".join(CASES[request.node.callspec.params["case"]].words):
        yield []
        return
    n = request.getfixturevalue("net")
    n.ip("tuntap add t1 mode tap")
    yield n.prefix
    n.ip("link delete t1")


def words_of(case):
    """A guest's command is the first word of all that is given by -p."""
    return ["-p", case.params, *case.words]


def shown(guest, case, life=0):
    """The guest has shown what the case is about, in its @life."""
    if case.says:
        guest.until(lambda: len(guest.lives()) > life, lambda: f"{len(guest.lives())} lives on the console")
        assert re.search(case.says, guest.lives()[life]), f"no {case.says!r}: {guest.story()}"
        return guest.lives()[life]
    moving.wait_running(guest)
    return None


def reset(guest):
    q = moving.Qmp(guest)
    q.ask("system_reset")
    q.close()


MOVES = [name for name, case in CASES.items() if case.goes == "moves"]


@pytest.mark.parametrize("case", MOVES)
def test_alone(start, work, taps, case):
    c = CASES[case]
    there = ["--policy", "policy.yaml", *c.there]
    a = start(words_of(c), prefix=taps)
    first = shown(a, c)
    if c.check:
        c.check(a)
    b = start(there, incoming=f"unix:{work}/m", prefix=taps)
    moving.wait_listening(b)
    moving.moved(a, b, f"unix:{work}/m", *(["--local"] if MOVES.index(case) % 2 else []))
    assert a.end() == 0, a.story()
    if a.called:  # the name came with the guest
        b.called = a.called
    moving.wait_running(b)
    seen_again(b, c, first)
    p = subprocess.run([harness.TESTUDO, "save", b.name, "snap"], cwd=work, env=b.env, capture_output=True, text=True,
                       timeout=harness.patience())
    assert p.returncode == 0, p.stderr
    assert b.end() == 0, b.story()
    d = start([*there, "--verify-snapshot", "--clock-realtime"], incoming="file:snap", prefix=taps)
    if a.called:
        d.called = a.called
    moving.wait_running(d)
    seen_again(d, c, first)


def seen_again(guest, case, first):
    """After a reset the guest finds the machine that it knows."""
    reset(guest)
    if first:
        c = Case([], says="done")
        assert shown(guest, c) == first, guest.story()
    else:
        moving.wait_running(guest)


@pytest.mark.parametrize("case", ["--no-reboot", "--help"])
def test_that_ends(things, case):
    c = CASES[case]
    r = harness.run_raw(["run", str(harness.GUEST), *words_of(c)], things)
    if case == "--help":
        assert r.code == 0 and r.out.startswith("Usage: testudo run"), str(r)
    else:
        assert r.code == harness.RESET and r.out.count("hello from") == 1, str(r)


def test_paused(start):
    g = start(words_of(CASES["--paused"]))
    q = moving.Qmp(g)
    assert q.ask("query-status")["status"] == "prelaunch" and g.console() == ""
    q.ask("cont")
    shown(g, CASES["--paused"])
    q.close()


def test_daemonize(work):
    env = {**os.environ, "XDG_RUNTIME_DIR": work}

    def testudo(*words):
        return subprocess.run([harness.TESTUDO, *words], cwd=work, env=env, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=harness.patience())

    p = testudo("run", str(harness.GUEST), *words_of(CASES["--daemonize"]))
    assert p.returncode == 0 and not p.stdout, p.stderr
    names = moving.leftovers(work)
    assert len(names) == 1 and re.fullmatch(r"guest-\d+", names[0]), names
    p = testudo("stop", "--force", names[0])
    assert p.returncode == 0, p.stderr
    assert moving.leftovers(work) == []


def test_hugepages(things):
    """From the host's pool, or a refusal that says how to fill it."""
    r = harness.run_raw(["run", str(harness.GUEST), "-p", "hello", *CASES["--hugepages"].words], things)
    free = int(re.search(r"HugePages_Free: +(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1))
    if free >= 32:
        r.expect(harness.OFF, "done hello")
    else:
        r.expect_error(harness.VMM_ERROR, "hugepages")


def test_dirty_ring(start, work):
    """Where KVM has it; moved as any other."""
    c = CASES["--dirty-ring"]
    a = start(words_of(c))
    harness.until(lambda: a.p.poll() is not None or a.lives(), a.story)
    if a.p.poll() is not None:
        assert a.p.returncode == harness.VMM_ERROR and "--dirty-ring" in a.log(), a.story()
        return
    b = start(["--policy", "policy.yaml"], incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    moving.moved(a, b, f"unix:{work}/m")
    moving.wait_running(b)


# ---- what comes with the guest, and what is compared ----

MISFITS = {
    "another address": (["-n", "tap=t0"], ["-n", "tap=t1,mac=02:00:00:00:00:07"], "mac"),
    "another serial number": (["-d", "disk.img"], ["-d", "disk.img,serial=X"], "serial-number"),
    "read-only": (["-d", "disk.img"], ["-d", "disk.img,ro"], "read-only"),
    "no entropy source": ([], ["--no-rng"], "virtio-rng"),
}


@pytest.mark.parametrize("case", [name for name in MISFITS if name != "another address"])
def test_named_at_the_destination_it_is_compared(start, work, case):
    here, there, word = MISFITS[case]
    a = start([*here, "-p", HELLO])
    shown(a, Case([]))
    b = start(["--policy", "policy.yaml", *there], incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    code, _, err = moving.migrate(a, f"unix:{work}/m")
    assert code == moving.SOURCE_RUNS and word in err, err


def test_address_named_at_the_destination(start, work, net):  # noqa: F811
    here, there, word = MISFITS["another address"]
    net.ip("tuntap add t1 mode tap")
    try:
        a = start([*here, "-p", INFO], prefix=net.prefix)
        shown(a, Case([]))
        b = start(["--policy", "policy.yaml", *there], incoming=f"unix:{work}/m", prefix=net.prefix)
        moving.wait_listening(b)
        code, _, err = moving.migrate(a, f"unix:{work}/m")
        assert code == moving.SOURCE_RUNS and word in err, err
        b.end()
    finally:
        net.ip("link delete t1")


# ---- the name ----

def listed(work):
    p = subprocess.run([harness.TESTUDO, "list", "--json"], env={**os.environ, "XDG_RUNTIME_DIR": work},
                       capture_output=True, text=True, check=True, timeout=harness.patience())
    return sorted(guest["name"] for guest in json.loads(p.stdout))


def saved(guest, *args):
    p = subprocess.run([harness.TESTUDO, "save", guest.name, "snap", *args], cwd=guest.work, env=guest.env,
                       capture_output=True, text=True, timeout=harness.patience())
    assert p.returncode == 0, p.stderr


def test_name_travels_on_one_host(start, work):
    """Listed by its number while its source is there, by its name once that has ended; and on to the next."""
    a = start(["--name", "web", "-p", HELLO])
    shown(a, Case([]))
    for n in (1, 2):
        b = start(["--policy", "policy.yaml"], incoming=f"unix:{work}/m{n}")
        moving.wait_listening(b)
        q = moving.Qmp(a)
        q.migrate(f"unix:{work}/m{n}")
        assert q.wait_migration()["status"] == "completed"
        moving.wait_running(b)
        assert listed(work) == sorted(["web", f"guest-{b.p.pid}"])
        q.ask("quit")
        q.close()
        assert a.end() == 0
        b.called = "web"
        b.until(lambda: listed(work) == ["web"], lambda: f"{listed(work)}")
        moving.wait_running(b)
        a = b


@pytest.mark.parametrize("mine, want", [(["--name", "db"], "db"), ([], None)])
def test_no_name_to_bring(start, work, mine, want):
    """One that is given at the destination stays; where neither side gave one, the number is the process's own."""
    a = start([*(["--name", "web"] if mine else []), "-p", HELLO])
    shown(a, Case([]))
    b = start(["--policy", "policy.yaml", *mine], incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    moving.moved(a, b, f"unix:{work}/m")
    assert a.end() == 0
    moving.wait_running(b)
    assert listed(work) == [want or f"guest-{b.p.pid}"]


def test_name_from_a_file(start, work):
    """The name is in the file; a clone finds it taken, says so, and goes on."""
    a = start(["--name", "web", "-p", HELLO])
    shown(a, Case([]))
    saved(a)
    assert a.end() == 0
    b = start(["--policy", "policy.yaml", "--ready-fd", "1"], incoming="file:snap")
    b.called = "web"
    moving.wait_running(b)
    assert "ready name=web " in b.console()
    c = start(["--policy", "policy.yaml"], incoming="file:snap")
    moving.wait_running(c)
    assert listed(work) == sorted(["web", f"guest-{c.p.pid}"])
    assert "called 'web' at the source" in c.log() and "--name" in c.log(), c.log()
    assert "called" not in b.log(), b.log()
