"""The control socket of a running guest: QMP, word by word, and clients that mean no good."""

import json
import os
import pathlib
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

import harness
import qmp
from harness import BAD_INPUT, CRASH, OFF, PANIC, RESET, USAGE
from test_mitigation import EIBRS, SAPPHIRE_RAPIDS, SHIM

NOBODY = 65534

OWN = {"qmp_capabilities", "query-commands", "getfd", "closefd"}
QUERIES = {"query-status", "query-name", "query-version", "query-memory-size-summary", "query-cpus-fast",
           "x-testudo-query-exits", "x-testudo-query-mitigation"}
ACTIONS = {"stop", "cont", "system_powerdown", "system_reset", "quit"}


@pytest.fixture(autouse=True)
def runtime(work, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", work)


class Guest:
    """A guest that runs under a name, and its control socket."""

    def __init__(self, live, work, params="button n=9", *args, name="g", **kwargs):
        self.base, self.name = work, name
        self.dir = pathlib.Path(work, "testudo", name)
        self.path = qmp.socket_path(work, name)
        self.live = live(params, "--name", name, *args, **kwargs)
        harness.wait_for(lambda: os.path.exists(self.path) or self.live.p.poll() is not None)

    def __enter__(self):
        self.live.__enter__()
        return self

    def __exit__(self, *_):
        self.live.__exit__(*_)

    def client(self, **kwargs):
        return qmp.Client(self.path, **{"timeout": harness.patience(20), **kwargs})

    def ready(self, text=b"button ready\n"):
        self.live.read_until(text)
        return self

    def end(self, code=OFF):
        assert self.live.end(None) == code, self.live.stderr()


@pytest.fixture
def guest(live, work):
    return lambda *args, **kwargs: Guest(live, work, *args, **kwargs)


def cli(*words):
    return subprocess.run([harness.TESTUDO, *words], capture_output=True, text=True, timeout=harness.patience(),
                          check=False)


def keys(value):
    """All keys of the objects in a JSON value."""
    if isinstance(value, list):
        return [key for item in value for key in keys(item)]
    return [*value, *keys(list(value.values()))] if isinstance(value, dict) else []


def descriptors(pid):
    """How many it has open; VMs that were tried, and are closed beside the guest, do not count."""
    def target(fd):
        try:
            return os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            return "anon_inode:kvm, closed meanwhile"

    return sum(not target(fd).startswith("anon_inode:kvm") for fd in os.listdir(f"/proc/{pid}/fd"))


# ---- the protocol ----

def test_greeting(guest):
    with guest() as g, g.client(negotiate=False) as c:
        greeting = c.message()["QMP"]
        assert greeting["capabilities"] == []
        assert set(greeting["version"]["qemu"]) == {"major", "minor", "micro"}
        assert greeting["version"]["package"].startswith("testudo ")


def test_nothing_before_negotiation_and_that_once(guest):
    with guest() as g, g.client(negotiate=False) as c:
        c.message()
        with pytest.raises(qmp.Error, match="CommandNotFound: Expecting capabilities negotiation"):
            c.execute("query-status")
        with pytest.raises(qmp.Error, match="no capability was offered"):
            c.execute("qmp_capabilities", enable=["oob"])
        assert c.execute("qmp_capabilities", enable=[]) == {}
        with pytest.raises(qmp.Error, match="CommandNotFound: .*already complete"):
            c.execute("qmp_capabilities")
        assert c.status() == "running"


def test_commands_are_listed(guest):
    with guest() as g, g.client() as c:
        listed = {row["name"] for row in c.execute("query-commands")}
    assert listed >= OWN | QUERIES | ACTIONS
    manual = (harness.ROOT / "docs" / "testudo.1").read_text().split(".Ss Control socket")[1].split("\n.S")[0]
    assert [name for name in listed - OWN if not re.search(rf"(?<![\w-]){name}(?![\w-])", manual)] == []


def test_queries(guest):
    with guest("button", "-c", 2, "-m", "128") as g, g.ready().client() as c:
        assert c.execute("query-status") == {"running": True, "singlestep": False, "status": "running"}
        assert c.execute("query-name") == {"name": "g"}
        assert c.execute("query-version") == c.greeting["QMP"]["version"]
        assert c.execute("query-memory-size-summary") == {"base-memory": 128 << 20}
        cpus = c.execute("query-cpus-fast")
        tasks = f"/proc/{g.live.p.pid}/task"
        assert [cpu["cpu-index"] for cpu in cpus] == [0, 1]
        for n, cpu in enumerate(cpus):
            assert pathlib.Path(tasks, str(cpu["thread-id"]), "comm").read_text() == f"vcpu{n}\n"
            assert cpu["props"] == {"socket-id": 0, "core-id": n, "thread-id": 0}
        exits = c.execute("x-testudo-query-exits")
        assert [row["cpu-index"] for row in exits] == [0, 1]
        assert exits[0]["io"] > 0 and exits[0]["total"] >= exits[0]["io"] + exits[0]["mmio"] + exits[0]["msr"]
        assert exits[1]["total"] == 0
        report = c.execute("x-testudo-query-mitigation")
        assert report["schema"] == 1 and report["state"] == "running" and len(report["vcpus"]) == 2


@pytest.mark.parametrize("kind,text,message", [
    ("CommandNotFound", "'nonsense' has not been found", {"execute": "nonsense"}),
    ("CommandNotFound", "has not been found", {"execute": ""}),
    ("CommandNotFound", "has not been found", {"execute": "x" * 500}),
    ("GenericError", "Parameter 'force' is unexpected", {"execute": "stop", "arguments": {"force": True}}),
    ("GenericError", "Parameter '?' is unexpected", {"execute": "stop", "arguments": {"\n": True}}),
    ("GenericError", "Parameter 'fdname' is missing", {"execute": "getfd"}),
    ("GenericError", "'fdname', expected: string", {"execute": "getfd", "arguments": {"fdname": 1}}),
    ("GenericError", "No file descriptor supplied", {"execute": "getfd", "arguments": {"fdname": "f"}}),
    ("GenericError", "do not begin with a digit", {"execute": "getfd", "arguments": {"fdname": "1f"}}),
    ("GenericError", "1 to 64 bytes", {"execute": "getfd", "arguments": {"fdname": ""}}),
    ("GenericError", "1 to 64 bytes", {"execute": "getfd", "arguments": {"fdname": "f" * 65}}),
    ("GenericError", "'none' not found", {"execute": "closefd", "arguments": {"fdname": "none"}}),
    ("GenericError", "lacks member 'execute'", {}),
    ("GenericError", "lacks member 'execute'", {"arguments": {}}),
    ("GenericError", "'execute' must be a string", {"execute": 1}),
    ("GenericError", "'arguments' must be an object", {"execute": "stop", "arguments": []}),
    ("GenericError", "'exec-oob' is unexpected", {"exec-oob": "stop"}),
    ("GenericError", "'more' is unexpected", {"execute": "stop", "more": 1}),
])
def test_errors(guest, kind, text, message):
    with guest() as g, g.client() as c:
        for ident in (None, 7, "seven", {"a": [1.5, None]}):
            sent = dict(message, **({"id": ident} if ident is not None else {}))
            c.raw(json.dumps(sent).encode() + b"\n")
            answer = c.answer()
            assert answer["error"]["class"] == kind and text in answer["error"]["desc"], answer
            assert answer.get("id") == ident
        assert c.status() == "running"


@pytest.mark.parametrize("data", [
    b"nonsense\n", b"[]\n", b"}\n", b"\xff\xfe\n", b"\0\n", b"quit\n", b"{]\n", b"{}}\n", b"{'execute':'quit'}\n",
    b'{"execute":"stop","execute":"quit"}\n', b'{"execute":"st\xff"}\n', b'{"execute":"stop\\u0000"}\n',
    b'{"execute":}\n', b'{"a":"\n"}\n', b'{"id": 1e999}\n', b'{"id": 99999999999999999999}\n',
], ids=repr)
def test_what_is_no_json_is_one_error_and_no_more(guest, data):
    with guest() as g, g.client() as c:
        c.raw(data + b'{"execute": "query-status", "id": "after"}')
        answers = [c.answer()]
        while answers[-1].get("id") != "after":
            answers.append(c.answer())
        assert 1 <= len(answers) - 1 <= 2
        assert all(answer["error"]["class"] == "GenericError" for answer in answers[:-1]), answers
        assert answers[-1]["return"]["status"] == "running"


def test_messages_in_any_pieces(guest):
    """Byte by byte; several in one piece; without anything between them."""
    command = b'{ "execute" : "query-name", "id": "}{\\"\\\\" }'
    with guest() as g, g.client() as c:
        for i in range(len(command)):
            c.raw(command[i:i + 1])
        c.raw(b"\r\n\t " + command * 50)
        for _ in range(51):
            assert c.answer() == {"return": {"name": "g"}, "id": '}{"\\'}


@pytest.mark.parametrize("data,text", [
    (b'{"execute": "' + b"x" * (1 << 17), "too long"),
    (b'{"execute": "stop", "id": ' + b"[" * 40, "too deep"),
    (b'{"id":' * 100000, "too deep"),
], ids=["long", "deep", "both"])
def test_commands_out_of_bounds_close_the_connection(guest, data, text):
    with guest() as g, g.client() as other:
        with g.client() as c:
            try:
                c.raw(data)
                answer = c.answer()
            except (BrokenPipeError, ConnectionResetError):
                answer = None  # closed with bytes of ours unread: the kernel may throw the answer away
            assert answer is None or text in answer["error"]["desc"]
            c.unread = b""
            c.expect_end()
        assert other.status() == "running"


# ---- what the commands do ----

def test_stop_and_cont(guest):
    with guest("echo") as g, g.ready(b"echo ready\n").client() as c, g.client() as other:
        with g.client(negotiate=False) as silent:
            silent.message()
            before = time.time()
            assert c.execute("stop") == {}
            assert c.status() == "paused"
            assert c.execute("stop") == {}  # as in QEMU
            g.live.p.stdin.write(b"while paused")
            time.sleep(0.3)
            assert harness.unread(g.live.p.stdout) == 0
            assert c.execute("cont") == {}
            assert c.execute("cont") == {}
            g.live.read_until(b"while paused")
            for client in (c, other):
                for name in ("STOP", "RESUME"):
                    event = client.event()
                    assert event["event"] == name
                    stamp = event["timestamp"]
                    assert before - 1 < stamp["seconds"] + stamp["microseconds"] / 1e6 < time.time() + 1
            assert not c.events and c.status() == "running"
            silent.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                silent.sock.recv(1)


def test_guest_computes_the_same_over_many_stops(guest):
    """The checksums of a guest that writes memory at full speed stay right."""
    with guest("dirty wss=8 report=1", "-c", 2, "-m", 128) as g, g.client() as c:
        g.live.read_until(b"load cpu=0")
        for _ in range(40):
            c.execute("stop")
            c.execute("cont")
        g.live.p.stdin.write(b"!")  # ends the load
        g.live.p.stdin.flush()
        g.live.read_until(b"done dirty", timeout=120)
        g.end()


def test_reset_runs_on(guest):
    with guest("hello end=loop") as g, g.ready(b"done hello\n").client() as c:
        for _ in range(3):
            g.live.seen = b""
            assert c.execute("system_reset") == {}
            assert c.expect_event("RESET")["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
            g.live.read_until(b"done hello")
            assert c.status() == "running"
        c.execute("quit")
        g.end()


def test_reset_by_the_guest_is_told(guest):
    with guest("button end=reset") as g, g.ready().client() as c:
        c.execute("system_powerdown")
        assert c.expect_event("RESET")["data"] == {"guest": True, "reason": "guest-reset"}
        c.execute("quit")
        g.end()


def test_reset_while_paused_waits_for_cont(guest):
    with guest("hello end=loop") as g, g.ready(b"done hello\n").client() as c:
        c.execute("stop")
        c.execute("system_reset")
        c.expect_event("RESET")
        assert c.status() == "prelaunch"
        g.live.seen = b""
        time.sleep(0.2)
        assert harness.unread(g.live.p.stdout) == 0
        c.execute("system_reset")
        c.expect_event("RESET")
        assert c.status() == "prelaunch"
        assert c.execute("query-cpus-fast")[0]["cpu-index"] == 0
        c.execute("cont")
        g.live.read_until(b"done hello")
        c.expect_event("RESUME")
        assert c.status() == "running"
        c.execute("quit")
        g.end()


@pytest.mark.parametrize("paused", [False, True])
def test_quit(guest, paused):
    with guest("hello end=loop", "-c", 2) as g, g.ready(b"done hello\n").client() as c:
        if paused:
            c.execute("stop")
        assert c.execute("quit") == {}
        assert c.expect_event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-qmp-quit"}
        c.expect_end()
        g.end()
        assert os.listdir(g.dir.parent) == [".lock"]


@pytest.mark.parametrize("paused", [False, True])
def test_power_button(guest, paused):
    with guest("button") as g, g.ready().client() as c:
        if paused:
            c.execute("stop")
        assert c.execute("system_powerdown") == {}
        c.expect_event("POWERDOWN")
        if paused:
            time.sleep(0.2)
            assert harness.unread(g.live.p.stdout) == 0
            c.execute("cont")
        assert c.expect_event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
        c.expect_end()
        g.end()
        assert b"button pressed=1" in g.live.read_until(b"done button")


@pytest.mark.parametrize("way,args,code,guest_did,reason", [
    ("poweroff", [], OFF, True, "guest-shutdown"),
    ("panic", [], PANIC, True, "guest-panic"),
    ("triple", [], CRASH, False, "host-error"),
    ("reset", ["--no-reboot"], RESET, True, "guest-reset"),
])
def test_shutdown_says_why(guest, way, args, code, guest_did, reason):
    with guest(f"button end={way}", *args) as g, g.ready().client() as c:
        c.execute("system_powerdown")
        assert c.expect_event("SHUTDOWN")["data"] == {"guest": guest_did, "reason": reason}
        c.expect_end()
        g.end(code)


def test_shutdown_by_signal_and_by_reset(guest):
    with guest() as g, g.client() as c:
        g.live.p.send_signal(signal.SIGTERM)
        assert c.expect_event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-signal"}
        g.end(-signal.SIGTERM)
        assert not g.dir.exists()
    with guest("button n=9", "--no-reboot") as g, g.client() as c:
        c.execute("system_reset")
        assert c.expect_event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
        g.end(RESET)


@pytest.mark.shim
def test_changed_mitigation_is_told(live, work, monkeypatch):
    """The guest's report, on a KVM that can hold bits; several changes in a row are one event."""
    if not SHIM.exists():
        pytest.skip(f"{SHIM} is not built")
    facts = pathlib.Path(work, "host.json")
    facts.write_text(json.dumps({
        "testudo-host-facts": 1, "backend": {"name": "none", "can-hold": []},
        "facts": dict(SAPPHIRE_RAPIDS, **{"kvm-arch-capabilities": hex(EIBRS), "kvm-cpuid-7-2-edx": "0"})}))
    prefix = harness.environment(harness.overlay(facts, "filter"))
    with Guest(live, work, "msrs cpus=1 do=0.w.50000002.2 end=loop", "--host-facts", facts, prefix=prefix) as g:
        with g.ready(b"done msrs").client() as c:
            before = c.execute("x-testudo-query-mitigation")["vcpus"][0]["report"]
            assert before["written"] and before["ctrl"] == "0x2"
            c.execute("stop")
            c.execute("system_reset")
            c.expect_event("RESET")
            g.live.seen = b""
            c.execute("cont")
            g.ready(b"done msrs")
            assert c.expect_event("X_TESTUDO_MITIGATION_CHANGED")["data"] == {"changes": ["reported"]}
            exits = c.execute("x-testudo-query-exits")[0]
            assert exits["virtual-msr"] >= 1 and exits["msr"] >= 1
            c.execute("quit")
            g.end()


# ---- descriptors ----

def test_descriptors_are_kept_and_closed(guest):
    with guest() as g, g.ready().client() as c:
        before = descriptors(g.live.p.pid)
        ends = [os.pipe() for _ in range(3)]
        for n, (_, writer) in enumerate(ends):
            assert c.pass_fds("getfd", [writer], fdname=f"f{n}") == {}
            os.close(writer)
        assert descriptors(g.live.p.pid) == before + 3
        c.execute("closefd", fdname="f0")
        assert os.read(ends[0][0], 1) == b"", "the last writer is gone"
        reader, writer = os.pipe()
        c.pass_fds("getfd", [writer], fdname="f1")  # replaces
        os.close(writer)
        assert os.read(ends[1][0], 1) == b""
        assert descriptors(g.live.p.pid) == before + 2
        with g.client() as other, pytest.raises(qmp.Error, match="not found"):
            other.execute("closefd", fdname="f2")  # names are each client's own
        c.sock.close()
        assert os.read(ends[2][0], 1) == b"" and os.read(reader, 1) == b""
        harness.wait_for(lambda: descriptors(g.live.p.pid) == before - 1)
        for fd in [reader, *(r for r, _ in ends)]:
            os.close(fd)


def test_descriptors_are_bounded(guest):
    with guest() as g, g.ready().client() as c:
        before = descriptors(g.live.p.pid)
        null = os.open("/dev/null", os.O_RDONLY)
        for _ in range(20):
            c.pass_fds("query-name", [null] * 16)
            c.pass_fds("query-name", [null] * 50)
        assert descriptors(g.live.p.pid) == before + 16
        for n in range(16):
            c.execute("getfd", fdname=f"f{n}")
        with pytest.raises(qmp.Error, match="room for 16"):
            c.pass_fds("getfd", [null], fdname="one-more")
        assert descriptors(g.live.p.pid) <= before + 32
        os.close(null)


# ---- who may, and how many ----

def test_other_users_are_refused(guest, work):
    if os.geteuid():
        pytest.skip("needs root, to become somebody else")
    connect = ("import socket, sys\ns = socket.socket(socket.AF_UNIX)\ntry:\n s.connect(sys.argv[1])\n"
               "except PermissionError:\n sys.exit('permission')\nprint(len(s.recv(1000)))")
    with guest() as g:
        assert stat.S_IMODE(g.dir.stat().st_mode) == stat.S_IMODE(g.dir.parent.stat().st_mode) == 0o700

        def other():
            return subprocess.run([sys.executable, "-c", connect, g.path], user=NOBODY, group=NOBODY, extra_groups=[],
                                  capture_output=True, text=True, check=False, cwd="/")

        assert other().stderr == "permission\n"
        for path in (work, g.dir.parent, g.dir):  # even where the owner opens it
            os.chmod(path, 0o755)
        os.chmod(g.path, 0o666)
        for _ in range(3):
            assert other().stdout == "0\n"
        assert g.live.stderr().count(f"refused a client of user {NOBODY}") == 1
        with g.client() as c:
            assert c.status() == "running"


def test_many_clients(guest):
    with guest() as g:
        g.ready()
        before = descriptors(g.live.p.pid)
        clients = [g.client() for _ in range(32)]
        assert [c.execute("query-name")["name"] for c in clients] == ["g"] * 32
        with g.client(negotiate=False, timeout=0.3) as late:
            with pytest.raises(socket.timeout):
                late.message()
            clients.pop().sock.close()
            late.sock.settimeout(harness.patience(20))
            assert "QMP" in late.message()
        clients[0].execute("stop")
        assert {c.event()["event"] for c in clients} == {"STOP"}
        for c in clients:
            c.sock.close()
        harness.wait_for(lambda: descriptors(g.live.p.pid) == before)


def test_garbage_does_not_hurt_others(guest):
    rng = random.Random(1)
    words = [b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b"\n", b"\0", b'"execute"', b'"stop', b'{"execute":"cont"}',
             b'{"execute":"query-commands","id":', b"\xff"]
    with guest() as g, g.client() as good:
        for n in range(60):
            with g.client() as c:
                blob = rng.randbytes(3000) if n % 2 else b"".join(rng.choices(words, k=3000))
                try:
                    c.raw(blob)
                    if n % 3:
                        c.sock.shutdown(socket.SHUT_WR)
                        c.expect_end()
                except (BrokenPipeError, ConnectionResetError):
                    pass
            assert good.execute("query-name") == {"name": "g"}
        good.execute("cont")
        good.execute("system_reset")
        g.live.seen = b""
        g.ready()


def test_slow_reader_is_dropped(guest):
    """It asks and asks and never reads: dropped at about 1 MiB of answers; others notice nothing."""
    with guest() as g, g.ready().client() as good, g.client() as slow:
        ask = b'{"execute":"query-commands"}' * 50
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(100):  # 5000 answers of 1 KiB and more: several times the bound
                slow.raw(ask)
                assert good.status() == "running"
        assert good.status() == "running"


def test_client_that_leaves_before_its_answer(guest):
    with guest() as g, g.client() as good:
        for _ in range(100):
            with g.client(negotiate=False) as c:
                c.raw(b'{"execute":"qmp_capabilities"}{"execute":"query-commands"}' * 20)
        assert good.status() == "running"


# ---- names and directories ----

def test_default_name(live, work):
    with live("button") as t:
        t.read_until(b"button ready")
        with qmp.Client(qmp.socket_path(work, f"guest-{t.p.pid}")) as c:
            assert c.execute("query-name") == {"name": f"guest-{t.p.pid}"}
            c.execute("quit")
        assert t.end(None) == OFF
    assert os.listdir(f"{work}/testudo") == [".lock"]


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "../x", "a b", "x" * 65, "\u00e4", "a\nb"])
def test_bad_names(testudo, name):
    testudo("hello", "--name", name).expect_error(USAGE, "--name")


def test_name_in_use(guest, testudo):
    with guest() as g, g.client() as c:
        testudo("hello", "--name", "g").expect_error(BAD_INPUT, "--name g", "choose another", "testudo stop g")
        assert c.status() == "running" and os.path.exists(g.path)


def test_killed_guest_leaves_what_the_next_one_cleans(guest, testudo):
    with guest(name="live") as alive, guest(name="dead") as dead:
        dead.ready()
        dead.live.p.kill()
        dead.live.p.wait()
        assert sorted(os.listdir(dead.dir)) == ["lock", "qmp.sock"]
        assert [row["name"] for row in json.loads(cli("list", "--json").stdout)] == ["live"]
        r = cli("stat", "dead")
        assert r.returncode == BAD_INPUT and "was killed" in r.stderr
        testudo("hello", "--name", "other").expect(OFF, "done hello")
        assert sorted(os.listdir(dead.dir.parent)) == [".lock", "live"]
        testudo("hello", "--name", "dead").expect(OFF, "done hello")
        with alive.client() as c:
            assert c.status() == "running"


def test_guests_that_start_and_end_at_once(work):
    """One name, many contenders: each runs alone or is told so; nothing is left."""
    words = [str(harness.TESTUDO), *harness.arguments("hello", "--name", "same")]
    codes = []
    for _ in range(4):
        running = [subprocess.Popen(words, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
        for p in running:
            out, err = p.communicate(timeout=harness.patience())
            codes.append(p.returncode)
            assert p.returncode in (OFF, BAD_INPUT), err
            assert (b"done hello" in out) == (p.returncode == OFF)
    assert codes.count(OFF) >= 4
    assert os.listdir(f"{work}/testudo") == [".lock"]


@pytest.mark.parametrize("spoil,text", [
    (lambda base: os.chmod(base, 0o755), "chmod 700"),
    (lambda base: os.chmod(base, 0o730), "chmod 700"),
    (lambda base: (os.rmdir(base), os.symlink("/var", base)), "Not a directory"),
    (lambda base: (os.rmdir(base), open(base, "w", encoding="ascii").close()), "Not a directory"),
], ids=["readable", "writable", "symlink", "file"])
def test_no_run_directory(testudo, work, spoil, text):
    """A guest without a name of its own does without; one that was named does not start."""
    os.mkdir(f"{work}/testudo", 0o700)
    spoil(f"{work}/testudo")
    r = testudo("hello").expect(OFF, "done hello")
    assert len(r.log) == 1 and "warning" in r.err and "without a control socket" in r.err and text in r.err, r
    testudo("hello", "--name", "g").expect_error(BAD_INPUT, f"{work}/testudo", text)


def test_path_too_long_for_a_socket(testudo, work, monkeypatch):
    deep = os.path.join(work, "d" * 60)
    os.mkdir(deep, 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", deep)
    testudo("hello", "--name", "n" * 40).expect_error(BAD_INPUT, "shorter --name")
    testudo("hello", "--name", "n").expect(OFF, "done hello")
    assert os.listdir(f"{deep}/testudo") == [".lock"]


@pytest.mark.parametrize("sandbox", [[], ["--no-sandbox"]])
def test_directory_is_removed_at_the_end(guest, sandbox):
    with guest("button", *sandbox) as g, g.ready().client() as c:
        c.execute("system_reset")  # a life later, still so
        c.expect_event("RESET")
        g.live.seen = b""
        g.ready()
        assert sorted(os.listdir(g.dir)) == ["lock", "qmp.sock"]
        c.execute("system_powerdown")
        c.expect_end()
        assert os.listdir(g.dir.parent) == [".lock"]
        g.end()


# ---- the subcommands ----

def test_list_and_stat(guest):
    r = cli("list")
    assert r.stdout == "" and "no guests run" in r.stderr and json.loads(cli("list", "--json").stdout) == []
    with guest("button", "-c", 2, "-m", 128, name="one") as one, guest(name="two") as two:
        one.ready()
        two.ready()
        assert cli("pause", "two").returncode == 0
        rows = [line.split() for line in cli("list").stdout.splitlines()]
        assert rows == [["NAME", "PID", "STATE", "VCPUS", "MEMORY"],
                        ["one", str(one.live.p.pid), "running", "2", "128", "MiB"],
                        ["two", str(two.live.p.pid), "paused", "1", "512", "MiB"]]
        listed = json.loads(cli("list", "--json").stdout)
        assert [(row["name"], row["pid"], row["status"], row["memory"], len(row["cpus"])) for row in listed] == [
            ("one", one.live.p.pid, "running", 128 << 20, 2), ("two", two.live.p.pid, "paused", 512 << 20, 1)]
        text = cli("stat", "one").stdout
        assert "state       running" in text and "mitigation  " in text and len(text.splitlines()) == 11, text
        stat_json = json.loads(cli("stat", "one", "--json").stdout)
        vcpus = stat_json["mitigation"]["vcpus"]
        assert f"protection  {vcpus[0]['summary']}\n" in text and " WANTED " in text and " HELD " in text, text
        assert [row["reason"] for row in vcpus[0]["reasons"]] and "held" in vcpus[0]["summary"]
        assert {row["held"] for row in vcpus[0]["reasons"]} == {vcpus[0]["held"]["mask"] != "0x0"}
        assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key) for key in keys(stat_json)), set(keys(stat_json))
        assert stat_json["exits"][0]["io"] > 0 and stat_json["mitigation"]["schema"] == 1


def test_pause_resume_stop(guest):
    with guest("button") as g:
        g.ready()
        for command in ("pause", "pause", "resume", "resume", "pause"):
            r = cli(command, "g")
            assert (r.returncode, r.stdout, r.stderr) == (0, "", "")
        r = cli("stop", "g")
        assert r.returncode == 1 and "is paused" in r.stderr and "testudo resume g" in r.stderr, r
        assert cli("resume", "g").returncode == 0
        r = cli("stop", "g")
        assert (r.returncode, r.stdout, r.stderr) == (0, "", "")
        assert os.listdir(g.dir.parent) == [".lock"]
        g.end()


def test_stop_of_a_guest_that_was_not_started(guest):
    with guest("button", "-S") as g:
        r = cli("stop", "g")
        assert r.returncode == 1 and "has not been started" in r.stderr and "testudo resume g" in r.stderr, r
        assert cli("pause", "g").returncode == 0 and cli("resume", "g").returncode == 0
        g.ready()
        assert cli("stop", "g").returncode == 0
        g.end()


def test_stop_of_a_guest_that_ignores_its_button(guest):
    with guest("hello end=hlt") as g:
        g.ready(b"done hello")
        began = time.monotonic()
        r = cli("stop", "g", "--timeout", "1")
        assert r.returncode == 1 and "after 1 s" in r.stderr and "--force g" in r.stderr, r
        assert time.monotonic() - began >= 1
        assert cli("stop", "--force", "g").returncode == 0
        g.end()


def test_force_kills_a_process_that_does_not_answer(guest):
    with guest(name="hung") as g, guest(name="other") as other:
        g.ready()
        other.ready()
        g.live.p.send_signal(signal.SIGSTOP)
        rows = {row["name"]: row for row in json.loads(cli("list", "--json").stdout)}
        assert rows["hung"]["status"] == "stopped" and rows["hung"]["pid"] == g.live.p.pid
        assert rows["other"]["status"] == "running"
        r = cli("stat", "hung")
        assert r.returncode == 1 and f"process {g.live.p.pid} is stopped" in r.stderr, r
        r = cli("stop", "--force", "hung")
        assert r.returncode == 0 and "was killed" in r.stderr, r
        g.end(-signal.SIGKILL)
        assert sorted(os.listdir(g.dir.parent)) == [".lock", "other"]


@pytest.mark.parametrize("command", ["stat", "pause", "resume", "stop"])
def test_unknown_guest(guest, command):
    r = cli(command, "nobody")
    assert r.returncode == BAD_INPUT and "no guest 'nobody': none runs" in r.stderr, r
    with guest(name="one"), guest(name="two"):
        r = cli(command, "nobody")
        assert r.returncode == BAD_INPUT and "there are: one, two" in r.stderr, r


@pytest.mark.parametrize("words", [
    ["list", "x"], ["list", "--force"], ["stat"], ["stat", "a", "b"], ["stat", "../x"], ["pause", "--json", "a"],
    ["stop", "a", "--timeout"], ["stop", "a", "--timeout", "-1"], ["stop", "a", "--timeout", "86401"], ["resume", ""],
    ["stat", "--nonsense", "a"],
], ids=" ".join)
def test_wrong_usage(words):
    r = cli(*words)
    assert r.returncode == USAGE and r.stdout == "" and len(r.stderr.splitlines()) == 1, r


@pytest.mark.parametrize("command", ["list", "stat", "pause", "resume", "stop"])
def test_help(command):
    for words in ([command, "--help"], ["help", command]):
        r = cli(*words)
        assert (r.returncode, r.stderr) == (0, "") and r.stdout.startswith(f"Usage: testudo {command}"), r
