"""Every path on a command line, and every kind of file that can be there: each is taken or refused with one line,
nothing hangs, no signal is lost, and no device, FIFO or link is replaced by a file."""

import errno
import os
import pathlib
import pty
import signal
import socket
import stat
import threading
import tty

import pytest

import harness
import moving
import saving
from harness import BAD_INPUT, OFF, VMM_ERROR

LIMIT = 30  # seconds for anything here
DATA = harness.ROOT / "tests" / "data" / "hosts"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TEMPLATE = '{"cpuid_modifiers": [], "msr_modifiers": []}'
OLD = b"#what was there before#"
HAS_KVM = harness.why_no_kvm() is None


# ---- what reads ----

def run_words(*words):
    return lambda path: ["run", *[str(w).replace("PATH", str(path)) for w in words]]


def explain(*words):
    return lambda path: ["policy", "explain", *[str(w).replace("PATH", str(path)) for w in words]]


FACTS = (DATA / "sapphire-rapids.json").read_bytes()
BOOT = ["-k", harness.GUEST, "-p", "hello"]
# name: words, what a good file has in it, its name in messages, exit code when all is well
READERS = {
    "kernel": (run_words("-k", "PATH", "-p", "hello"), harness.GUEST.read_bytes(), "kernel", OFF),
    "initrd": (run_words(*BOOT, "-i", "PATH"), b"initrd", "initrd", OFF),
    "policy": (run_words(*BOOT, "--policy", "PATH"), moving.POLICY.encode(), "policy", OFF),
    "explain-policy": (explain("--policy", "PATH", "--host", DATA / "sapphire-rapids.json"), moving.POLICY.encode(), "policy", OFF),
    "explain-host": (explain("--host", "PATH"), FACTS, "host facts", OFF),
    "explain-from": (explain("--from", "PATH", "--host", DATA / "sapphire-rapids.json"), FACTS, "host facts", OFF),
    "explain-cpu": (explain("--cpu", "PATH", "--host", DATA / "sapphire-rapids.json"), TEMPLATE.encode(), "CPU template",
                    OFF),
    "check": (lambda path: ["policy", "check", path], moving.POLICY.encode(), "policy", OFF),
}
LATE_READERS = {
    "host-facts": (run_words(*BOOT, "--policy", "{policy}", "--host-facts", "PATH"), FACTS, "host facts", OFF),
    "cpu": (run_words(*BOOT, "--cpu", "PATH"), TEMPLATE.encode(), "CPU template", OFF),
}
READERS_ALL = {**READERS, **LATE_READERS}


def run(words, work, **kwargs):
    return harness.run_raw([str(w).replace("{policy}", f"{work}/policy.yaml") for w in words], work, timeout=LIMIT, **kwargs)


def accepted(r, code):
    """It went on past its files: to the end, or to the lack of a /dev/kvm."""
    if not HAS_KVM and "/dev/kvm" in r.err:
        assert r.code == VMM_ERROR and len(r.log) == 1, r
    else:
        assert r.code == code, r


def refused(r, what, path, word, code=BAD_INPUT):
    assert r.code == code and r.out == "", r
    assert what in r.log[-1] and str(path) in r.log[-1] and word in r.log[-1], r


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))


def feed(path, data):
    """Write @data into the FIFO @path as soon as somebody reads it."""
    def write():
        with open(path, "wb") as f:
            try:
                f.write(data)
            except BrokenPipeError:
                pass
    t = threading.Thread(target=write, daemon=True)
    t.start()
    return t


def check_reader(work, row, kind):
    words, data, what, code = row
    path = pathlib.Path(work, "x.json")
    pathlib.Path(work, "policy.yaml").write_text(moving.POLICY)
    stdin = b""
    if kind in ("regular", "link"):
        real = path if kind == "regular" else pathlib.Path(work, "real")
        real.write_bytes(data)
        if kind == "link":
            path.symlink_to("real")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        make_socket(path)
    elif kind == "fifo":
        os.mkfifo(path)
        writer = feed(path, data)
    else:
        path = pathlib.Path(kind)
    if kind == "/proc/self/fd/0":
        real = pathlib.Path(work, "real")
        os.mkfifo(real)
        writer = feed(real, data)
        with open(real, "rb") as stdin:
            r = run(words(path), work, stdin=stdin)
    else:
        r = run(words(path), work, stdin=stdin)
    if kind in ("regular", "link", "fifo", "/proc/self/fd/0"):
        accepted(r, code)
    elif kind == "/dev/null":  # an empty file
        if r.code == BAD_INPUT:
            refused(r, what, path, "")
        else:
            accepted(r, code)
    else:
        refused(r, what, path, {"dangling": "No such file", "directory": "is a directory", "socket": "is a socket",
                                "/dev/zero": "is a character device"}[kind])
    if kind in ("fifo", "/proc/self/fd/0"):
        writer.join(LIMIT)
        assert not writer.is_alive()


READ_KINDS = ["regular", "link", "dangling", "directory", "socket", "fifo", "/proc/self/fd/0", "/dev/null", "/dev/zero"]


@pytest.mark.nokvm
@pytest.mark.parametrize("kind", READ_KINDS)
@pytest.mark.parametrize("option", READERS)
def test_read(work, option, kind):
    check_reader(work, READERS[option], kind)


@pytest.mark.parametrize("kind", READ_KINDS)
@pytest.mark.parametrize("option", LATE_READERS)
def test_read_late(work, option, kind):
    check_reader(work, LATE_READERS[option], kind)


def ended_by_signal(work, words, sig, what):
    """It waits, says what for, and dies of the signal; nothing is left in its run directory."""
    env = {**os.environ, "XDG_RUNTIME_DIR": work}
    with harness.Live([str(w).replace("{policy}", f"{work}/policy.yaml") for w in words], work, env=env) as t:
        assert what in t.wait_log("waiting for", LIMIT)
        assert t.end(sig, LIMIT) == -sig
        assert len(t.stderr().splitlines()) == 1, t.stderr()
    assert moving.leftovers(work) == []


def check_lonely_reader(work, row):
    path = pathlib.Path(work, "x.json")
    pathlib.Path(work, "policy.yaml").write_text(moving.POLICY)
    os.mkfifo(path)
    for sig in SIGNALS:
        ended_by_signal(work, row[0](path), sig, row[2])


@pytest.mark.nokvm
@pytest.mark.parametrize("option", READERS)
def test_wait_for_a_writer(work, option):
    check_lonely_reader(work, READERS[option])


@pytest.mark.parametrize("option", LATE_READERS)
def test_wait_for_a_writer_late(work, option):
    check_lonely_reader(work, LATE_READERS[option])


@pytest.mark.parametrize("option", ["kernel", "initrd"])
def test_a_kernel_from_a_pipe_boots_again(work, option):
    """What came from a pipe is there for the next reset, too."""
    path = pathlib.Path(work, "fifo")
    os.mkfifo(path)
    feed(path, harness.GUEST.read_bytes())
    words = {"kernel": ["-k", path], "initrd": ["-k", harness.GUEST, "-i", path]}[option]
    env = {**os.environ, "XDG_RUNTIME_DIR": work}
    with harness.Live(["run", "--name", "again", "-p", "echo", *words], work, env=env) as t:
        t.read_until(b"echo ready\n")
        t.seen = b""
        with moving.qmp.Client(moving.qmp.socket_path(work, "again")) as c:
            c.execute("system_reset")
            t.read_until(b"echo ready\n")
        assert t.end() == -signal.SIGTERM


# ---- disks and saved guests: nothing but what can be read at any place ----

@pytest.mark.nokvm
@pytest.mark.parametrize("kind", ["directory", "socket", "fifo", "dangling", "/dev/null", "/proc/self/fd/0"])
@pytest.mark.parametrize("option,what", [("-d", "disk image"), ("--incoming", "--incoming file:")])
def test_places_only(work, option, what, kind):
    path = pathlib.Path(work, "x")
    {"directory": path.mkdir, "socket": lambda: make_socket(path), "fifo": lambda: os.mkfifo(path),
     "dangling": lambda: path.symlink_to("nowhere")}.get(kind, lambda: None)()
    if kind.startswith("/"):
        path = pathlib.Path(kind)
    words = ["run", *BOOT, "-d", path] if option == "-d" else ["run", "--incoming", f"file:{path}"]
    r = run(words, work, stdin=b"x")
    refused(r, what, path, "")


# ---- what is written ----

def null_device(work):
    """A character device that swallows all: one of our own, lest a fault here replaces everybody's."""
    path = os.path.join(work, "null")
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        with open(path, "wb"):
            return path, None
    except OSError as e:
        assert e.errno in (errno.EPERM, errno.EACCES), e
    if os.path.lexists(path):
        os.unlink(path)
    master, slave = pty.openpty()
    tty.setraw(slave)
    return os.ttyname(slave), (master, slave)


# words, its name in messages, exit code where the file cannot be written while the guest runs
WRITERS = {
    "dump-dtb": (run_words(*BOOT, "--dump-dtb", "PATH"), "--dump-dtb", VMM_ERROR),
    "mitigation-report": (run_words(*BOOT, "--mitigation-report", "PATH"), "--mitigation-report", OFF),
    "serial": (run_words(*BOOT, "--serial", "file:PATH"), "--serial file", OFF),
}
BEGIN = {"dump-dtb": b"\xd0\x0d\xfe\xed", "mitigation-report": b"{", "serial": b""}


def well_written(option, data):
    assert data.startswith(BEGIN[option]) and OLD not in data, data
    if option == "serial":
        assert data.endswith(b"done hello\n"), data
    if option == "mitigation-report":
        assert data.endswith(b"}\n"), data


@pytest.mark.parametrize("kind", ["missing", "regular", "link", "dangling"])
@pytest.mark.parametrize("option", WRITERS)
def test_write_file(work, option, kind):
    path, target = pathlib.Path(work, "x"), pathlib.Path(work, "sub", "target")
    target.parent.mkdir()
    if kind == "regular":
        path.write_bytes(OLD)
    if kind in ("link", "dangling"):
        path.symlink_to("sub/target")
    if kind == "link":
        target.write_bytes(OLD)
    r = run(WRITERS[option][0](path), work)
    assert r.code == OFF, r
    assert path.is_symlink() == (kind in ("link", "dangling"))
    assert stat.S_ISREG(path.stat().st_mode)
    well_written(option, path.read_bytes())
    assert sorted(p.name for p in pathlib.Path(work).iterdir()) == ["sub", "x"]
    assert [p.name for p in target.parent.iterdir()] == (["target"] if path.is_symlink() else [])


@pytest.mark.parametrize("option", WRITERS)
def test_write_fifo(work, option):
    path, got = os.path.join(work, "x"), []
    os.mkfifo(path)

    def read():
        with open(path, "rb") as f:
            got.append(f.read())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    r = run(WRITERS[option][0](path), work)
    reader.join(LIMIT)
    assert r.code == OFF and r.log == [], r
    well_written(option, got[0])
    assert stat.S_ISFIFO(os.stat(path).st_mode)


@pytest.mark.parametrize("option", WRITERS)
def test_write_device(work, option):
    path, ends = null_device(work)
    r = run(WRITERS[option][0](path), work)
    assert r.code == OFF and r.log == [], r
    assert stat.S_ISCHR(os.stat(path).st_mode)
    for fd in ends or ():
        os.close(fd)


@pytest.mark.parametrize("option", WRITERS)
def test_write_full_disk(work, option):
    r = run(WRITERS[option][0]("/dev/full"), work)
    assert r.code == WRITERS[option][2], r
    assert len(r.log) == 1 and "No space left" in r.log[0], r


@pytest.mark.parametrize("option", ["dump-dtb", "mitigation-report"])
def test_write_standard_output(work, option):
    """A name for an open file is written into, wherever that leads."""
    with open(f"{work}/out", "wb") as out:
        inode = os.fstat(out.fileno()).st_ino
        with harness.Live(WRITERS[option][0]("/proc/self/fd/1") + ["--serial", "none"], work, stdout=out) as t:
            assert t.end(None) == OFF
    assert os.stat(f"{work}/out").st_ino == inode
    well_written(option, pathlib.Path(work, "out").read_bytes())


def check_refused_writer(work, option, kind):
    words, what, _ = WRITERS[option]
    path = pathlib.Path(work, "x")
    if kind == "directory":
        path.mkdir()
    elif kind == "socket":
        make_socket(path)
    else:
        path = pathlib.Path({"read-only": "/sys/testudo", "no folder": f"{work}/no/x"}[kind])
    refused(run(words(path), work), what, path, {"directory": "is a directory", "socket": "is a socket"}.get(kind, ""))


REFUSED = ["directory", "socket", "read-only", "no folder"]


@pytest.mark.nokvm
@pytest.mark.parametrize("kind", REFUSED)
def test_refused_writer(work, kind):
    check_refused_writer(work, "dump-dtb", kind)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("option", ["mitigation-report", "serial"])
def test_refused_writer_late(work, option, kind):
    check_refused_writer(work, option, kind)


def check_lonely_writer(work, option):
    path = pathlib.Path(work, "x")
    os.mkfifo(path)
    for sig in SIGNALS:
        ended_by_signal(work, WRITERS[option][0](path), sig, WRITERS[option][1])
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.nokvm
def test_wait_for_a_reader(work):
    check_lonely_writer(work, "dump-dtb")


@pytest.mark.parametrize("option", ["mitigation-report", "serial"])
def test_wait_for_a_reader_late(work, option):
    check_lonely_writer(work, option)


def test_serial_fifo_stalls_and_goes_on(work):
    """A reader that takes its time gets every byte."""
    path = os.path.join(work, "x")
    os.mkfifo(path)
    with harness.Live(["run", "-k", harness.GUEST, "-p", "echo", "--serial", f"file:{path}"], work) as t:
        fd = os.open(path, os.O_RDONLY)
        t.read_until(b"echo ready\n", fd=fd)
        os.close(fd)  # nobody is left: that is told once
        assert t.end() == -signal.SIGTERM


# ---- save ----

@pytest.mark.parametrize("kind", ["missing", "regular", "link", "dangling", "directory", "socket", "fifo", "device"])
def test_save(work, launch, kind):
    path, target = pathlib.Path(work, "snap"), pathlib.Path(work, "sub", "target")
    target.parent.mkdir()
    made, force = path, ["--force"]
    if kind == "regular":
        path.write_bytes(OLD)
    elif kind in ("link", "dangling"):
        path.symlink_to("sub/target")
        made = target
        if kind == "link":
            target.write_bytes(OLD)
        else:
            force = []
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        make_socket(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = pathlib.Path(null_device(work)[0])
    else:
        force = []
    g = launch("a", params="heartbeat")
    g.wait_beats()
    before = path.lstat() if os.path.lexists(path) else None
    if kind in ("missing", "regular", "link", "dangling"):
        if force:
            code, _, err = saving.save(g, path)
            assert code == saving.BAD_INPUT and "there already" in err
        saving.saved(g, path, *force)
        assert g.end() == OFF
        saving.front(made)
        assert path.is_symlink() == (made is target)
        assert not os.path.exists(f"{made}.tmp")
        return
    code, _, err = saving.save(g, path, *force)
    assert code == saving.BAD_INPUT and "a guest is saved into a regular file" in err, err
    assert path.lstat().st_mode == before.st_mode and path.lstat().st_ino == before.st_ino
    with moving.Qmp(g) as c:
        assert c.status() == "running"


# ---- sockets ----

SOCKETS = {
    "serial": (lambda path: ["run", *BOOT, "--serial", f"unix:{path}"], BAD_INPUT),
    "incoming": (lambda path: ["run", "--incoming", f"unix:{path}"], VMM_ERROR),
}


def check_socket(work, option, kind):
    words, code = SOCKETS[option]
    path = pathlib.Path(work, "x")
    {"directory": path.mkdir, "fifo": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("nowhere"),
     "regular": lambda: path.write_bytes(OLD)}[kind]()
    before = path.lstat()
    refused(run(words(path), work), f"unix:{path}", path, "is a ", code)
    assert path.lstat().st_mode == before.st_mode and path.lstat().st_ino == before.st_ino


@pytest.mark.nokvm
@pytest.mark.parametrize("kind", ["regular", "directory", "fifo", "link"])
def test_incoming_socket_in_the_way(work, kind):
    check_socket(work, "incoming", kind)


@pytest.mark.parametrize("kind", ["regular", "directory", "fifo", "link"])
def test_serial_socket_in_the_way(work, kind):
    check_socket(work, "serial", kind)


@pytest.mark.parametrize("option", SOCKETS)
def test_socket_left_behind(work, option):
    """The next start takes over what a killed one left; not what another one listens on."""
    path = os.path.join(work, "x")
    words = {"serial": ["run", "-k", harness.GUEST, "-p", "echo", "--serial", f"unix:{path}"],
             "incoming": ["run", "--incoming", f"unix:{path}"]}[option]

    def connects():
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(path) == 0

    for sig in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        with harness.Live(words, work) as t:
            harness.wait_for(connects, LIMIT)
            refused(run(SOCKETS[option][0](path), work), path, path, "another process listens there", SOCKETS[option][1])
            assert t.end(sig, LIMIT) == -sig
        assert os.path.exists(path) == (sig == signal.SIGKILL)
