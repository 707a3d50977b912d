"""Guests in files: they come back as they were, as often as one likes, and a damaged file says so."""

import ctypes
import mmap
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

import harness
import moving
from saving import BAD_INPUT, MIB, NOT_SAVED, REFUSED, SAVED, USAGE, command, front, save, saved


def filled(g):
    """Wait until the guest has written to all of its working set."""
    g.wait_beats()
    harness.wait_for(lambda: all(cpu[5] > 1 for cpu in g.heartbeat()[0]))
    return g.wait_beats(1)


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 0x10]))


def refused(work, policy, path, code, *words, args=()):
    """A restore that ends with @code and one line."""
    with moving.Guest(work, "broken", "--policy", policy, *args, incoming=f"file:{path}") as g:
        assert g.end() == code, g.log()
        lines = harness.without_mitigation(g.log()).splitlines()
        assert len(lines) == 1, g.log()
        for word in words:
            assert word in lines[0], lines[0]


def test_ram_is_in_the_file_byte_for_byte(launch, work):
    a = launch("a", params="dirty wss=8 order=rand", mem=64)
    filled(a)
    monitor = moving.Qmp(a)
    monitor.ask("stop")
    path = pathlib.Path(work, "snap")
    last = saved(a, path, "--keep-running")
    assert monitor.ask("query-status")["status"] == "paused"
    _, offset, size = front(path)
    assert size == 64 * MIB and 8 * MIB <= last["ram"]["transferred"] < 16 * MIB
    assert os.stat(path).st_blocks * 512 < 24 * MIB, "zero pages take room in the file"
    assert os.stat(path).st_mode & 0o777 == 0o600
    fd = a.memory_fd()
    with open(path, "rb") as f:
        f.seek(offset)
        for at in range(0, size, MIB):
            assert f.read(MIB) == os.pread(fd, MIB, at), f"RAM at {at:#x} differs"
    os.close(fd)
    monitor.ask("cont")
    a.wait_beats()


@pytest.mark.parametrize("cpus, params", [(1, "dirty wss=4"), (3, "dirty wss=6 cpus=3 order=rand"), (1, "heartbeat")],
                         ids=lambda v: str(v).replace(" ", "-"))
def test_save_and_restore(launch, work, cpus, params):
    """Every page is checked by the guest itself; one file serves several guests, at once and one after another."""
    path = pathlib.Path(work, "snap")
    a = launch("a", params=params, cpus=cpus, mem=64)
    before = a.wait_beats()
    saved(a, path)
    assert a.end() == 0, a.log()
    content = path.read_bytes()
    b, c = launch("b", incoming=f"file:{path}"), launch("c", incoming=f"file:{path}")
    for g in (b, c):
        now = g.wait_beats(1200)  # pages that each processor has, and a few
        assert all(n[0] > o[0] for n, o in zip(now, before)), "the guest went back in time"
    d = launch("d", "--verify-snapshot", incoming=f"file:{path}")
    d.wait_beats()
    b.wait_beats()
    assert path.read_bytes() == content, "a restored guest wrote into its file"
    assert moving.leftovers(work) == ["b", "c", "d"]


def test_keep_running(launch, work):
    disk = harness.make_disk(pathlib.Path(work, "disk.img"))
    a = launch("a", "-d", disk, params="dirty wss=4")
    a.wait_beats()
    code, events, err = save(a, f"{work}/snap", "--keep-running")
    assert code == SAVED and "1 disk" in err and err.count("\n") == 1, err
    assert events[-1]["downtime"] >= 1
    a.wait_beats()
    saved(a, f"{work}/snap2", "--keep-running")
    a.wait_beats()
    assert moving.leftovers(work) == ["a"]


def test_saved_again_and_moved_after_a_restore(launch, work):
    a = launch("a", params="dirty wss=4 cpus=2", cpus=2)
    a.wait_beats()
    saved(a, f"{work}/one")
    b = launch("b", incoming=f"file:{work}/one")
    b.wait_beats()
    # its memory is no descriptor that could be handed over
    c = launch("c", incoming=f"unix:{work}/m")
    moving.wait_listening(c)
    code, _, err = moving.migrate(b, f"unix:{work}/m", "--local")
    assert code == moving.SOURCE_RUNS and "restored from a file" in err, err
    b.wait_beats()
    saved(b, f"{work}/one", "--force")  # onto the file it runs from
    d = launch("d", incoming=f"file:{work}/one")
    before = d.wait_beats()
    moving.moved(d, c, f"unix:{work}/m")
    now = c.wait_beats()
    assert all(n[0] > o[0] for n, o in zip(now, before))
    # and once more, now that it has memory of its own again
    saved(c, f"{work}/two")
    launch("e", incoming=f"file:{work}/two").wait_beats()


def test_a_paused_guest_stays_paused(launch, work):
    a = launch("a", params="dirty wss=4")
    a.wait_beats()
    moving.Qmp(a).ask("stop")
    saved(a, f"{work}/snap")
    b = launch("b", incoming=f"file:{work}/snap")
    monitor = moving.Qmp(b)
    harness.wait_for(lambda: monitor.ask("query-status")["status"] == "paused")
    monitor.ask("cont")
    b.wait_beats()
    # one that ran waits all the same when it is told to
    saved(b, f"{work}/snap2")
    c = launch("c", "-S", incoming=f"file:{work}/snap2")
    monitor = moving.Qmp(c)
    harness.wait_for(lambda: monitor.ask("query-status")["status"] == "paused")
    count = c.heartbeat()[0][0][0]
    time.sleep(0.1)
    assert c.heartbeat()[0][0][0] == count
    monitor.ask("cont")
    c.wait_beats()


def test_saved_before_its_first_instruction(launch, work):
    a = launch("a", "-S")
    moving.wait_listening(a)
    saved(a, f"{work}/snap")
    b = launch("b", incoming=f"file:{work}/snap")
    monitor = moving.Qmp(b)
    harness.wait_for(lambda: monitor.ask("query-status")["status"] == "paused")
    monitor.ask("cont")
    b.wait_beats()


@pytest.mark.parametrize("irq", [0, 1])
def test_busy_disk(launch, work, irq):
    """Requests in flight are answered before, the disk is the restored guest's, and it goes on where it was."""
    disk = moving.BusyDisk(work, irq)
    here = launch("g0", "-d", disk.path, params=disk.params)
    here.wait_console("blk slot")
    console = ""
    for n in range(1, 4):
        saved(here, f"{work}/snap{n}")
        assert here.end() == 0, here.log()
        console += here.console()
        here = launch(f"g{n}", "-d", disk.path, incoming=f"file:{work}/snap{n}")
        moving.wait_running(here)
    disk.tell_to_end()
    assert here.end() == 0, here.log()
    disk.check(console + here.console())


def test_disks_are_locked_and_compared(launch, work, policy):
    disk = harness.make_disk(pathlib.Path(work, "disk.img"))
    small = harness.make_disk(pathlib.Path(work, "small.img"), 1 << 19)
    path = pathlib.Path(work, "snap")
    a = launch("a", "-d", disk)
    a.wait_beats()
    saved(a, path)
    b = launch("b", "-d", disk, incoming=f"file:{path}")
    b.wait_beats()
    refused(work, policy, path, BAD_INPUT, "in use", args=["-d", disk])
    refused(work, policy, path, BAD_INPUT, "virtio-blk")
    refused(work, policy, path, BAD_INPUT, "capacity", args=["-d", small])
    refused(work, policy, path, BAD_INPUT, "-m", args=["-d", disk, "-m", "32"])
    b.wait_beats()


@pytest.mark.shim
def test_refused_by_policy(launch, work):
    """The default policy, on a host whose KVM can hold nothing and whose CPU needs it where the first one did not."""
    a = launch("a", prefix=harness.holds_nothing("icelake-server"))
    a.wait_beats()
    saved(a, f"{work}/snap")
    with moving.Guest(work, "b", prefix=harness.holds_nothing("sapphire-rapids"), incoming=f"file:{work}/snap") as b:
        assert b.end() == REFUSED, b.log()
        assert "BHI_DIS_S" in b.log() and "row" in b.log()
    assert moving.leftovers(work) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: root only")
def test_full_disk(launch, work):
    small = pathlib.Path(work, "small")
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", small], check=True)
    try:
        a = launch("a", params="dirty wss=2")
        before = filled(a)
        a.fill(40 * MIB, 20)
        code, _, err = save(a, small / "snap")
        assert code == NOT_SAVED and "No space" in err and "it goes on" in err and err.count("\n") == 1, err
        assert not os.listdir(small)
        assert a.wait_beats()[0][0] > before[0][0]
        saved(a, pathlib.Path(work, "snap"))  # elsewhere there is room
    finally:
        subprocess.run(["umount", small], check=True)


def begin_to_save(g, path):
    """The testudo save of a guest with much memory, in the middle of it."""
    monitor = moving.Qmp(g)
    p = subprocess.Popen(command(g, path), env=g.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    harness.wait_for(lambda: monitor.ask("query-migrate").get("status") == "active", pause=0.001)
    monitor.close()
    return p


def test_cancel(launch, work):
    a = launch("a", params="dirty wss=2", mem=320)
    filled(a)
    a.fill(64 * MIB, 256)
    path = pathlib.Path(work, "snap")
    p = begin_to_save(a, path)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=harness.patience())
    assert p.returncode == NOT_SAVED, (out, err)
    assert b"cancelled" in err and err.count(b"\n") == 1, err
    assert sorted(os.listdir(work)) == ["a.console", "a.log", "policy.yaml", "testudo"]
    a.wait_beats()
    # the same by QMP, and then it works
    monitor = moving.Qmp(a)
    with open(f"{work}/file", "wb") as f:
        monitor.ask("getfd", fd=f.fileno(), fdname="f")
    monitor.ask("migrate", uri="fd:f")
    with pytest.raises(RuntimeError, match="already"):
        with open(f"{work}/file2", "wb") as f:
            monitor.ask("getfd", fd=f.fileno(), fdname="g")
        monitor.ask("migrate", uri="fd:g")
    monitor.ask("migrate_cancel")
    assert monitor.wait_migration()["status"] == "cancelled"
    assert monitor.ask("query-status")["status"] == "running"
    monitor.close()
    saved(a, path)


def test_the_guest_ends_meanwhile(launch, work):
    a = launch("a", params="dirty wss=2", mem=320)
    filled(a)
    a.fill(64 * MIB, 256)
    p = begin_to_save(a, f"{work}/snap")
    a.p.send_signal(signal.SIGTERM)
    _, err = p.communicate(timeout=harness.patience())
    a.end()
    assert p.returncode == NOT_SAVED and b"ended" in err and err.count(b"\n") == 1, err
    assert not [name for name in os.listdir(work) if name.startswith("snap")]


def test_files_that_are_there(launch, work):
    a = launch("a")
    a.wait_beats()
    path = pathlib.Path(work, "snap")
    path.write_text("mine")
    code, _, err = save(a, path)
    assert code == BAD_INPUT and "--force" in err and path.read_text() == "mine"
    pathlib.Path(f"{path}.tmp").write_text("another's")
    code, _, err = save(a, path, "--force")
    assert code == BAD_INPUT and ".tmp" in err and path.read_text() == "mine"
    os.unlink(f"{path}.tmp")
    code, _, err = save(a, f"{work}/no/such")
    assert code == BAD_INPUT and "No such file" in err
    a.wait_beats()
    saved(a, path, "--force")
    front(path)


def test_descriptors_that_cannot_take_a_guest(launch, work):
    a = launch("a")
    a.wait_beats()
    monitor = moving.Qmp(a)
    path = f"{work}/file"
    for flags, content, more, text in ((os.O_RDONLY, b"", {}, "cannot be written"),
                                       (os.O_WRONLY | os.O_APPEND, b"", {}, "O_APPEND"),
                                       (os.O_WRONLY, b"x", {}, "new regular file"),
                                       (os.O_WRONLY, b"", {"x-testudo-local": True}, "leave them out"),
                                       (os.O_WRONLY, b"", {"x-testudo-dry-run": True}, "leave them out")):
        pathlib.Path(path).write_bytes(content)
        fd = os.open(path, flags)
        monitor.ask("getfd", fd=fd, fdname="f")
        os.close(fd)
        with pytest.raises(RuntimeError, match=text):
            monitor.ask("migrate", uri="fd:f", **more)
    with pytest.raises(RuntimeError, match="testudo save writes files"):
        monitor.ask("migrate", uri=f"file:{path}")
    a.wait_beats()


@pytest.fixture
def snapshot(launch, work):
    a = launch("first", params="dirty wss=4", mem=40)
    a.wait_beats()
    path = pathlib.Path(work, "snap")
    saved(a, path)
    assert a.end() == 0
    return path


def test_a_flipped_byte_is_found(snapshot, work, policy):
    frames, _, _ = front(snapshot)
    places = list(range(0, 16, 3))
    for _, head, payload, end in frames:
        places += [head, head + 4, head + 9, head + 15, payload, (payload + end) // 2, end - 1]
    for at in places:
        flip(snapshot, at)
        refused(work, policy, snapshot, BAD_INPUT, f"file:{snapshot}")
        flip(snapshot, at)
    with moving.Guest(work, "whole", "--policy", policy, incoming=f"file:{snapshot}") as g:
        g.wait_beats()


def test_a_file_cut_short_is_found(snapshot, work, policy):
    frames, offset, size = front(snapshot)
    lengths = [offset + size - 1, offset + size - 4096, offset + size // 2, offset + 1, offset]
    for _, head, payload, end in reversed(frames):
        lengths += [end - 1, (payload + end) // 2, payload, head + 7, head]
    lengths += [15, 8, 1, 0]
    for length in lengths:
        os.truncate(snapshot, length)
        refused(work, policy, snapshot, BAD_INPUT, f"file:{snapshot}")


def test_damaged_memory_is_found_when_asked_for(snapshot, work, policy):
    _, offset, size = front(snapshot)
    for at in (offset + 0x40000, offset + size - 1):
        flip(snapshot, at)
        refused(work, policy, snapshot, BAD_INPUT, "checksum", args=["--verify-snapshot"])
        flip(snapshot, at)


def test_what_is_no_saved_guest(work, policy):
    for name, make, word in (("directory", os.mkdir, "regular file"), ("pipe", os.mkfifo, "regular file"),
                             ("text", lambda p: pathlib.Path(p).write_text("#!/bin/sh\n" * 9), "testudo save"),
                             ("nothing", lambda p: None, "No such file")):
        make(f"{work}/{name}")
        refused(work, policy, f"{work}/{name}", BAD_INPUT, word)


def resident(path):
    """Bytes of a file in the host's page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, f.fileno(), 0)
    pages = (size + 4095) // 4096
    table = ctypes.create_string_buffer(pages)
    assert libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(size), table) == 0
    libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(size))
    return table.raw[:pages].count(1) * 4096


def test_a_large_guest_is_not_read_before_it_runs(launch, work):
    path = pathlib.Path(work, "snap")
    a = launch("a", params="heartbeat", mem=8192)
    a.wait_beats()
    fd = os.open(f"/proc/{a.p.pid}/fd/{[n for n in os.listdir(f'/proc/{a.p.pid}/fd') if 'guest-ram' in os.readlink(f'/proc/{a.p.pid}/fd/{n}')][0]}", os.O_RDWR)
    for at in range(1 << 30, 8 << 30, 1 << 30):
        os.pwrite(fd, os.urandom(16 * MIB), at)
    os.close(fd)
    saved(a, path)
    assert a.end() == 0
    with open(path, "rb") as f:  # on the disk it is; out of the cache with it
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    b = launch("b", incoming=f"file:{path}")
    b.wait_beats(100)
    assert resident(path) < 24 * MIB, "more of the file was read than the guest needed"
    b.wait_beats()


def test_dump_dtb(launch, work):
    """For people, of a machine that boots and of one that was restored."""
    if not shutil.which("dtc"):
        pytest.skip("needs dtc (device-tree-compiler)")

    def text(path):
        return subprocess.run(["dtc", "-I", "dtb", "-O", "dts", path], capture_output=True, text=True, check=True).stdout

    disk = harness.make_disk(pathlib.Path(work, "disk.img"))
    a = launch("a", "-d", f"{disk},serial=DISK1", "--dump-dtb", f"{work}/a.dtb", params="heartbeat cpus=2", cpus=2)
    a.wait_beats()
    tree = text(f"{work}/a.dtb")
    for word in ('serial-number = "DISK1"', "cpu@1", "memory@0", "heartbeat cpus=2", "testudo,machine-v1"):
        assert word in tree, tree
    saved(a, f"{work}/snap")
    b = launch("b", "-d", f"{disk},serial=DISK1", "--dump-dtb", f"{work}/b.dtb", incoming=f"file:{work}/snap")
    b.wait_beats()
    assert "heartbeat cpus=2" in text(f"{work}/b.dtb")
    with moving.Guest(work, "c", "--dump-dtb", f"{work}/no/dir") as c:
        assert c.end() == BAD_INPUT and "--dump-dtb" in c.log()


@pytest.mark.nokvm
def test_usage(work):
    def run(*words):
        return subprocess.run([harness.TESTUDO, *words], capture_output=True, text=True, cwd=work,
                              env={**os.environ, "XDG_RUNTIME_DIR": work})

    for words, code, text in ((["save"], USAGE, "NAME PATH"), (["save", "x"], USAGE, "NAME PATH"),
                              (["save", "x", "y", "--slow"], USAGE, "--slow"), (["save", "x", "y"], BAD_INPUT, "x"),
                              (["run", "--verify-snapshot", "-k", "x"], USAGE, "--incoming file:"),
                              (["run", "--incoming", "file:x", "--hugepages"], USAGE, "--hugepages"),
                              (["run", "--incoming", "file:x", "--prealloc"], USAGE, "--prealloc")):
        p = run(*words)
        assert p.returncode == code and text in p.stderr and p.stderr.count("\n") == 1, (words, p.stderr)
    assert "--keep-running" in run("save", "--help").stdout
    assert os.listdir(work) in ([], ["testudo"])
