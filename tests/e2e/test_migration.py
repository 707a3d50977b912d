"""Moving guests on this machine: they go on where they were, with the memory that they had."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import time

import pytest

import faulty
import harness
import moving

# of each case of test_hops, of which there are eleven
HOPS = int(os.environ.get("TESTUDO_HOPS", "0")) or harness.often(20, 3)


def uri_for(kind, work, number=0):
    return f"unix:{work}/m{number}" if kind == "unix" else moving.free_uri()


RING = ("--dirty-ring", "4096")


@pytest.mark.parametrize("kind, options", [("unix", ()), ("tcp", ()), ("unix", RING)], ids=["unix", "tcp", "ring"])
def test_memory_arrives_byte_for_byte(launch, work, kind, options):
    # with the frequency given the guest has no kvmclock, which KVM would write into the memory of the one that waits
    a = launch("a", *options, params="dirty wss=8 order=rand tsc_khz=2000000", mem=64)
    a.wait_beats()
    uri = uri_for(kind, work)
    b = launch("b", "-S", incoming=uri)
    moving.wait_listening(b)
    # the source stays to be compared: not through testudo migrate, which ends it
    monitor = moving.Qmp(a)
    monitor.migrate(uri)
    assert monitor.wait_migration()["status"] == "completed"
    assert moving.Qmp(b).ask("query-status")["status"] == "paused"
    assert monitor.ask("query-status")["status"] == "postmigrate"
    assert moving.same_memory(a, b) is None
    with pytest.raises(RuntimeError, match="must not run twice"):
        monitor.ask("cont")
    monitor.ask("quit")
    assert a.end() == 0
    moving.Qmp(b).ask("cont")
    b.wait_beats()


CASES = [(kind, cpus, params, ()) for kind in ("unix", "tcp") for cpus, params in
         [(1, "dirty wss=4"), (2, "dirty wss=8 cpus=2 order=rand"), (4, "dirty wss=8 cpus=4"),
          (1, "heartbeat"), (3, "heartbeat cpus=3")]]
CASES += [("tcp", 2, "dirty wss=8 cpus=2 order=rand", RING)]


@pytest.mark.parametrize("kind, cpus, params, options", CASES,
                         ids=lambda v: "ring" if v is RING else "log" if v == () else str(v).replace(" ", "-"))
def test_hops(launch, work, kind, cpus, params, options):
    """From process to process, as often as HOPS says; every page is checked by the guest itself."""
    here = launch("g0", *options, params=params, cpus=cpus, mem=48)
    before = here.wait_beats()
    for hop in range(1, HOPS + 1):
        uri = uri_for(kind, work, hop)
        there = launch(f"g{hop}", *options, incoming=uri)
        moving.wait_listening(there)
        moving.moved(here, there, uri)
        assert here.end() == 0, here.log()
        now = there.wait_beats(50)
        assert all(n[0] > b[0] for n, b in zip(now, before)), "the guest went back in time"
        here, before = there, now
    assert moving.leftovers(work) == [here.name]


def test_a_paused_guest_arrives_paused(launch, work):
    a = launch("a", params="dirty wss=4")
    a.wait_beats()
    moving.Qmp(a).ask("stop")
    b = launch("b", incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    moving.moved(a, b, f"unix:{work}/m")
    assert moving.Qmp(b).ask("query-status")["status"] == "paused"
    count = b.heartbeat()[0][0][0]
    time.sleep(0.1)
    assert b.heartbeat()[0][0][0] == count
    moving.Qmp(b).ask("cont")
    b.wait_beats()


@pytest.mark.parametrize("msr, arrives", [("175", True), ("176", True), ("c0000102", False)])
def test_a_host_that_keeps_half_of_an_msr(launch, work, msr, arrives):
    """kvm_amd does so with SYSENTER_ESP and _EIP, which then have but that half; with others it is a refusal."""
    a = launch("a", params=f"msrs cpus=1 do=0.w.{msr}.ffff888000003000 end=loop")
    a.wait_console("done msrs")
    b = launch("b", incoming=f"unix:{work}/m", env=harness.lacking(f"high:{msr}"))
    moving.wait_listening(b)
    code, _, err = moving.migrate(a, f"unix:{work}/m")
    assert code == (moving.MOVED if arrives else moving.SOURCE_RUNS), err
    if not arrives:
        assert f"MSR 0x{msr} was 0xffff888000003000, and the destination's KVM keeps 0x3000" in err


def test_local_hand_over_copies_nothing(launch, work):
    a = launch("a", params="dirty wss=4", mem=512)
    a.wait_beats()
    b = launch("b", incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    last = moving.moved(a, b, f"unix:{work}/m", "--local")
    assert last["ram"]["transferred"] < 1 << 20
    b.wait_beats()


def test_dry_run_moves_nothing_and_can_be_repeated(launch, work):
    a = launch("a", params="heartbeat")
    a.wait_beats()
    uri = f"unix:{work}/m"
    b = launch("b", incoming=uri)
    moving.wait_listening(b)
    for _ in range(3):
        code, events, err = moving.migrate(a, uri, "--dry-run")
        assert code == moving.MOVED, err
        assert events[-1]["x-testudo-outcome"] == "here"
        a.wait_beats()
    moving.moved(a, b, uri)
    b.wait_beats()


@pytest.mark.shim
def test_refused_by_policy(launch, work):
    """The default policy, on a host whose KVM can hold nothing and whose CPU may need it."""
    a = launch("a", prefix=harness.holds_nothing("icelake-server"), params="heartbeat")
    a.wait_beats()
    uri = f"unix:{work}/m"
    with moving.Guest(work, "b", prefix=harness.holds_nothing("sapphire-rapids"), incoming=uri) as b:
        moving.wait_listening(b)
        code, events, err = moving.migrate(a, uri)
        assert code == moving.REFUSED, err
        assert "BHI_DIS_S" in err and "row" in err and "it goes on at the source" in err
        assert b.end() == 4, b.log()
    a.wait_beats()
    assert moving.leftovers(work) == ["a"]


def test_ports_of_the_outside_stay_open(launch, work):
    """A stranger on the port does not end the wait."""
    uri = uri_for("tcp", work)
    b = launch("b", incoming=uri)
    moving.wait_listening(b)
    for junk in (b"", b"GET / HTTP/1.0\r\n\r\n", b"TSTUDOMG" + bytes(8), bytes(64)):
        with socket.create_connection(moving.address_of(uri)) as s:
            s.settimeout(harness.patience(10))
            try:  # it hangs up, sooner or later
                s.sendall(junk)
                s.shutdown(socket.SHUT_WR)
                while s.recv(4096):
                    pass
            except OSError:
                pass
        assert b.p.poll() is None, b.log()
    a = launch("a", params="heartbeat")
    a.wait_beats()
    moving.moved(a, b, uri)
    b.wait_beats()


MISFITS = {
    "a disk more here": (["-d", "disk.img"], [], "was given no disk: add -d FILE"),
    "a second disk here": (["-d", "disk.img", "-d", "small.img"], ["-d", "disk.img"], "the guest has 2 disks"),
    "a disk more there": ([], ["-d", "disk.img"], "leave out -d"),
    "another serial number": (["-d", "disk.img,serial=A"], ["-d", "disk.img,serial=B"], "serial-number"),
    "another size": (["-d", "disk.img"], ["-d", "small.img"], "capacity"),
    "no entropy source there": ([], ["--no-rng"], "leave out --no-rng"),
    "none here": (["--no-rng"], [], "give --no-rng"),
    "other memory": ([], ["-m", "32"], "-m"),
    "other vCPUs": ([], ["-c", "2"], "-c"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_destination_that_does_not_fit(launch, work, case):
    here, there, word = MISFITS[case]
    for name, size in (("disk.img", 1 << 20), ("small.img", 1 << 19)):
        with open(pathlib.Path(work, name), "wb") as f:
            f.truncate(size)
    a = launch("a", *here, params="heartbeat")
    a.wait_beats()
    uri = f"unix:{work}/m"
    b = launch("b", *there, incoming=uri)
    moving.wait_listening(b)
    code, _, err = moving.migrate(a, uri)
    assert code == moving.SOURCE_RUNS, err
    assert word in err, err
    b.end()
    a.wait_beats()
    assert moving.leftovers(work) == ["a"]


def test_what_has_left_says_so(launch, work):
    """To every command that would act on it, in words of the command line, with the one that helps."""
    a = launch("a")
    a.wait_beats()
    uri = f"unix:{work}/m"
    b = launch("b", incoming=uri)
    moving.wait_listening(b)
    monitor = moving.Qmp(a)  # testudo migrate would end it
    monitor.migrate(uri)
    assert monitor.wait_migration()["status"] == "completed"
    for words in (["pause", "a"], ["resume", "a"], ["stop", "a"], ["save", "a", "f"], ["migrate", "a", f"unix:{work}/x"]):
        with socket.socket(socket.AF_UNIX) as nobody:
            if words[0] == "migrate":
                nobody.bind(f"{work}/x")
                nobody.listen(8)
            r = subprocess.run([harness.TESTUDO, *words], cwd=work, env=a.env, capture_output=True, text=True, check=False,
                               timeout=harness.patience())
        assert r.returncode and "has left" in r.stderr and "testudo stop --force" in r.stderr, (words, r)
        assert not any(word in r.stderr for word in ("query-", "quit", "cont:", "postmigrate")), (words, r.stderr)
    r = subprocess.run([harness.TESTUDO, "stop", "--force", "a"], env=a.env, check=False, timeout=harness.patience())
    assert r.returncode == 0 and a.end() == 0
    b.wait_beats()


def test_twice_at_once_is_refused(launch, work):
    a = launch("a", params="dirty wss=32", mem=128)
    a.wait_beats()
    uri = f"unix:{work}/m"
    b = launch("b", incoming=uri)
    moving.wait_listening(b)
    monitor = moving.Qmp(a)
    monitor.ask("migrate-set-parameters", **{"downtime-limit": 1})
    monitor.migrate(uri)
    with pytest.raises(RuntimeError, match="already"):
        monitor.migrate(uri)
    monitor.ask("migrate_cancel")
    assert monitor.wait_migration()["status"] in ("cancelled", "completed")
    if monitor.ask("query-migrate")["status"] == "cancelled":
        a.wait_beats()


@pytest.mark.parametrize("irq, options", [(0, ()), (1, ()), (1, RING)], ids=["polled", "irq", "ring"])
def test_busy_disk(launch, work, irq, options):
    """Requests in flight are answered once, by the one side or the other, over several moves."""
    disk = moving.BusyDisk(work, irq)
    here = launch("g0", "-d", disk.path, *options, params=disk.params)
    here.wait_console("blk slot")
    console = ""
    for n in range(1, 7):
        there = launch(f"g{n}", "-d", disk.path, *options, incoming=f"unix:{work}/m{n}")
        moving.wait_listening(there)
        code, _, err = moving.migrate(here, f"unix:{work}/m{n}")
        assert code == moving.MOVED, f"{err}\n{there.log()}"
        console += here.console()
        here = there
    disk.tell_to_end()
    assert here.end() == 0, here.log()
    disk.check(console + here.console())


def test_exit_code_when_the_way_is_blocked(launch, work):
    a = launch("a", params="heartbeat")
    a.wait_beats()
    code, _, err = moving.migrate(a, f"unix:{work}/nobody")
    assert code == moving.SOURCE_RUNS and "nobody" in err
    a.wait_beats()


def test_usage():
    for words, text in (([], "NAME URI"), (["x"], "NAME URI"), (["x", "ftp:y"], "ftp"), (["x", "file:y"], "save"),
                        (["x", "tcp:h:1", "--local"], "unix"), (["x", "unix:y", "--channels", "0"], "--channels"),
                        (["x", "unix:y", "--on-timeout", "pray"], "cancel, force or throttle")):
        p = subprocess.run([harness.TESTUDO, "migrate", *words], capture_output=True, text=True)
        assert p.returncode == moving.USAGE and text in p.stderr and p.stderr.count("\n") == 1, (words, p.stderr)


# ---- what is said, and to whom ----

def told(guest, *words, **kwargs):
    return subprocess.run([harness.TESTUDO, *map(str, words)], env=guest.env, cwd=guest.work, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=harness.patience(120), **kwargs)


def test_a_dry_run_is_never_taken_for_a_move(launch, work):
    """Its status is its own, wherever it is asked for; a refused one says which side goes on."""
    a = launch("a", params="heartbeat")
    a.wait_beats()
    b = launch("b", incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    code, events, _ = moving.migrate(a, f"unix:{work}/m", "--dry-run")
    assert code == 0 and events[-1]["event"] == events[-1]["status"] == "dry-run-passed"
    assert events[-1]["x-testudo-outcome"] == "here"
    assert all(event["x-testudo-dry-run"] and "completed" not in event.values() for event in events)
    q = moving.Qmp(a)
    assert q.ask("query-migrate")["status"] == "dry-run-passed"
    q.close()
    p = told(a, "migrate", "a", f"unix:{work}/m", "--dry-run")
    assert p.returncode == 0 and p.stdout.startswith("dry run: guest 'a' could move to unix:"), p
    assert "moved in" not in p.stdout and "nothing was moved" in p.stdout
    c = launch("c", "-m", "32", incoming=f"unix:{work}/n")
    moving.wait_listening(c)
    code, events, err = moving.migrate(a, f"unix:{work}/n", "--dry-run")
    assert code == moving.SOURCE_RUNS and events[-1]["event"] == "failed" and events[-1]["x-testudo-dry-run"]
    assert "the destination refuses" in err and "it goes on at the source" in err, err
    a.wait_beats()
    end = moving.moved(a, b, f"unix:{work}/m")
    assert end["event"] == "completed" and "x-testudo-dry-run" not in end


@pytest.mark.parametrize("words, out, lines", [([], "text", 2), (["--json"], "json", None), (["-q"], "none", 0),
                                               (["--quiet", "--json"], "json", None)], ids=lambda w: " ".join(w) if isinstance(w, list) else None)
def test_words_in_a_pipe(launch, work, words, out, lines):
    """People's words unless --json is given, and with -q nothing; for save as for migrate."""
    a = launch("a", params="heartbeat")
    a.wait_beats()
    b = launch("b", incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    for p in (told(a, "save", "a", f"{work}/snap", "--keep-running", *words), told(a, "migrate", "a", f"unix:{work}/m", *words)):
        assert p.returncode == 0, p
        if out == "json":
            assert [json.loads(line) for line in p.stdout.splitlines()][-1]["event"] == "completed"
        elif out == "none":
            assert p.stdout == p.stderr == ""
        else:
            assert p.stdout.startswith("guest 'a' ") and "{" not in p.stdout and "\r" not in p.stdout, p.stdout
            assert p.stdout.count("\n") <= lines
    p = told(b, "list", "-q")
    assert p.returncode == 0 and "b " in p.stdout
    p = told(b, "stop", "--quiet", "nobody")
    assert p.returncode == moving.NO_GUEST and "nobody" in p.stderr


def slow(channel, number, head, rest):
    """chunk= of a Proxy: a way that takes 8 MiB/s by two channels."""
    time.sleep(len(rest) / (4 << 20))
    return head, rest


@contextlib.contextmanager
def slow_way(launch, work):
    """A guest with 16 MiB of its own, its destination, and a way there that takes its time."""
    a = launch("a", params="heartbeat", mem=64)
    a.wait_beats()
    a.fill(16 << 20, 16)
    b = launch("b", incoming=f"unix:{work}/m")
    moving.wait_listening(b)
    with faulty.Proxy(f"unix:{work}/slow", f"unix:{work}/m", chunk=slow):
        yield a, b, f"unix:{work}/slow"


def shown_on_a_terminal(guest, *words):
    """What a command writes to a terminal, in pieces between two carriage returns."""
    ours, theirs = os.openpty()
    p = subprocess.Popen([harness.TESTUDO, *map(str, words)], env=guest.env, cwd=guest.work, stdin=subprocess.DEVNULL,
                         stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    seen = b""
    try:
        while more := os.read(ours, 65536):
            seen += more
    except OSError:  # the other side is gone
        pass
    os.close(ours)
    assert p.wait(harness.patience()) == 0, p.stderr.read()
    p.stderr.close()
    return seen.decode().split("\r")


def test_progress_counts_from_the_start(launch, work):
    """Within the first round, over a way that takes its time: amounts grow, and speed and time left are there."""
    with slow_way(launch, work) as (a, _, way):
        code, events, err = moving.migrate(a, way, "--downtime-ms", 2000)
    assert code == moving.MOVED, err
    first = [e for e in events if e["event"] == "progress" and e["status"] == "active" and e["ram"]["dirty-sync-count"] == 0]
    assert len(first) > 8, events
    sent = [e["ram"]["transferred"] for e in first]
    left = [e["ram"]["remaining"] for e in first]
    assert sent == sorted(sent) and len(set(sent)) > 5, sent
    assert left == sorted(left, reverse=True) and len(set(left)) > 5, left
    # from the first second on
    # what is on its way in buffers is not left any more
    later = [e for e in first if e["total-time"] > first[0]["total-time"] + 1000 and e["ram"]["remaining"]]
    assert later, first
    for e in later:
        assert 0 < e["ram"]["mbps"] / 8 < 100, e
        assert 0 < e["x-testudo-time-left"] < 600000, e
    assert "x-testudo-time-left" not in events[-1]


def test_bar_on_a_terminal(launch, work):
    """One bar for migrate and save: speed, how far, and the time that is left. -q leaves it out."""
    with slow_way(launch, work) as (a, b, way):
        pieces = shown_on_a_terminal(a, "migrate", "a", way, "--downtime-ms", 2000)
    bars = [p for p in pieces if p.startswith("[") and "active" in p and "round 0" in p]
    told = [bar for bar in bars if re.search(r"\d+ of 64 MiB  (?!0\.0 )[\d.]+ MB/s  about \d+ s left", bar)]
    assert len(told) > 4 and len(told) > len(bars) / 2, bars
    assert any("guest 'a' moved" in p for p in pieces), pieces
    quiet = shown_on_a_terminal(b, "save", "b", f"{work}/snap", "-q")
    assert quiet == [""], quiet
