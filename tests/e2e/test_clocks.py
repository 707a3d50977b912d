"""The guest's clocks: TSC and kvmclock go on by the time that it stands still and by no more, whatever the wall clocks of
two hosts say, at the frequency that it knows. The other host is this one with other clocks (host_clocks.c)."""

import pathlib
import re
import struct

import pytest

import faulty
import harness
import moving
from moving import MOVED, REFUSED, SOURCE_RUNS, migrate, moved
from saving import front, saved

HOUR = 3600
AN_HOUR = r"\b3(599|600)\.\d s\b"
SLOW_MS = 400  # of restoring, so that a pause which does not count is seen


class Host:
    """Another host's clocks. @wall_s: its wall clock is ahead by that"""

    def __init__(self, work, name, wall_s=0, **values):
        self.path = pathlib.Path(work, f"wall-{name}")
        self.path.write_bytes(struct.pack("<q", int(wall_s * 10**9)))
        self.env = {**harness.preloading("host_clocks"), "CLOCKS_WALL": str(self.path),
                    **{f"CLOCKS_{key.upper()}": str(value) for key, value in values.items()}}


@pytest.fixture
def policy_file(work):
    """policy_file(text): a policy by which guests may come, and this"""
    def write(text):
        path = pathlib.Path(work, "clocks.yaml")
        path.write_text(moving.POLICY + text)
        return str(path)

    return write


def watch(launch, *args, **kwargs):
    """A guest that looks at its clocks."""
    g = launch("a", *args, params="clocks", **kwargs)
    g.wait_console("clocks start")
    return g


def seen(g):
    """What it saw, wherever it is now."""
    moving.wait_running(g)
    g.poke(moving.GATE_GPA, struct.pack("<I", 1))
    g.wait_console("done clocks")
    found = re.search(r"clocks (tsc_ms=.*)", g.console())
    return {key: int(value) for key, value in re.findall(r"(\S+?)=(\d+)", found.group(1))}


def check_steps(clocks, least_ms, most_ms):
    """Both clocks saw that pause, and neither went back."""
    assert clocks["tsc_back"] == clocks["ns_back"] == 0, clocks
    assert least_ms <= clocks["tsc_step_ms"] <= most_ms, clocks
    assert least_ms <= clocks["ns_step_ms"] <= most_ms, clocks
    if tsc_is_sane():
        # the guest reads one after the other, and may lose its processor in between
        between = abs(clocks["tsc_step_ms"] - clocks["ns_step_ms"])
        assert abs(clocks["tsc_ms"] - clocks["ns_ms"]) <= clocks["ns_ms"] // 10 + 20 + between, clocks


def tsc_is_sane():
    """Under a kernel that has given its TSC up KVM lets a guest's lag behind, and catch up at times."""
    return pathlib.Path("/sys/devices/system/clocksource/clocksource0/current_clocksource").read_text() == "tsc\n"


def most_of(event):
    """A pause of the guest, by the source's own clock; and what a busy machine lets a vCPU wait besides."""
    return event["x-testudo-downtime-us"] / 1000 + harness.patience(1) * 1000


def warnings(text):
    return [line for line in text.splitlines() if "wall clock" in line]


@pytest.mark.parametrize("local", [False, True], ids=["copied", "handed over"])
@pytest.mark.parametrize("wall_s", [0, HOUR, -HOUR, 0.5])
def test_the_wall_clock_there(launch, work, wall_s, local):
    a = watch(launch)
    uri = f"unix:{work}/m" if local else moving.free_uri()
    b = launch("b", incoming=uri, env=Host(work, "b", wall_s, slow_ms=SLOW_MS).env)
    moving.wait_listening(b)
    code, events, err = migrate(a, uri, *["--local"] * local)
    assert code == MOVED, f"{err}\n{b.log()}"
    check_steps(seen(b), 2 * SLOW_MS - 20, most_of(events[-1]))
    assert abs(events[-1]["x-testudo-clock-difference-ms"] + wall_s * 1000) < 1000 * harness.patience(0.2), events[-1]
    there, here = warnings(b.log()), warnings(err)
    assert len(there) == len(here) == (abs(wall_s) > 1), there + here
    if there:
        assert re.search(AN_HOUR, there[0]) and "NTP" in there[0], there
        assert re.search(AN_HOUR, here[0]) and "NTP" in here[0], here
        assert ("ahead" in here[0]) == (wall_s < 0) == ("ahead" in there[0]), here


@pytest.mark.parametrize("step_s", [HOUR, -HOUR])
def test_a_wall_clock_that_is_set_meanwhile(launch, work, step_s):
    """At the source, after the handshake: between two looks at what was written."""
    a = watch(launch, env=Host(work, "a", step_s=step_s).env)
    uri = moving.free_uri()
    b = launch("b", incoming=uri, env=Host(work, "b", slow_ms=SLOW_MS).env)
    moving.wait_listening(b)
    event = moved(a, b, uri)
    check_steps(seen(b), 2 * SLOW_MS - 20, most_of(event))


def test_there_and_back_again(launch, work):
    """What one move leaves is no matter for the next one, and times add up."""
    a = watch(launch)
    uris = [moving.free_uri() for _ in range(2)]
    b = launch("b", incoming=uris[0], env=Host(work, "b", HOUR).env)
    c = launch("c", incoming=uris[1], env=Host(work, "c", -HOUR).env)
    most = 0
    for source, destination, uri in ((a, b, uris[0]), (b, c, uris[1])):
        moving.wait_listening(destination)
        most = max(most, most_of(moved(source, destination, uri)))
        moving.wait_running(destination)
    check_steps(seen(c), 0, most)


@pytest.mark.parametrize("wall_s", [0, HOUR, -HOUR])
@pytest.mark.parametrize("booted_s", [12345, 5])
def test_two_hosts(launch, work, booted_s, wall_s):
    """Their monotonic clocks have nothing in common; that they have on one host is what other tests rely on."""
    a = watch(launch)
    uri = moving.free_uri()
    b = launch("b", incoming=uri, env=Host(work, "b", wall_s, slow_ms=SLOW_MS, booted_s=booted_s).env)
    moving.wait_listening(b)
    event = moved(a, b, uri)
    check_steps(seen(b), 2 * SLOW_MS - 20, most_of(event))
    assert abs(event["x-testudo-clock-difference-ms"] + wall_s * 1000) < 1000 * harness.patience(0.2), event


@pytest.mark.parametrize("wall_s", [HOUR, -HOUR])
def test_refused_by_policy(launch, work, policy_file, wall_s):
    a = watch(launch)
    uri = moving.free_uri()
    b = launch("b", "--policy", policy_file("clock-difference: refuse\n"), incoming=uri,
               env=Host(work, "b", wall_s).env)
    moving.wait_listening(b)
    for args in (["--dry-run"], []):
        code, events, err = migrate(a, uri, *args)
        assert code == REFUSED, err
        assert re.search(AN_HOUR, err) and "clock-difference: refuse" in err and "NTP" in err, err
        assert events[-1]["x-testudo-refused"] is True
    check_steps(seen(a), 0, harness.patience(1) * 1000)


def test_allowed_by_policy(launch, work, policy_file):
    a = watch(launch)
    uri = moving.free_uri()
    b = launch("b", "--policy", policy_file("clock-difference: refuse\n"), incoming=uri,
               env=Host(work, "b", 0.5).env)
    moving.wait_listening(b)
    event = moved(a, b, uri)
    check_steps(seen(b), 0, most_of(event))


def without_features(kind, data):
    """HELLO of a source from before CLOCK"""
    if kind != faulty.HELLO:
        return data
    payload = bytearray(data[faulty.FRAME_HEAD:])
    assert struct.unpack_from("<I", payload, 4)[0] & 1, "the source offers to answer"
    payload[4:8] = bytes(4)
    return faulty.frame(kind, bytes(payload))


@pytest.mark.parametrize("wall_s", [0, HOUR, -HOUR])
def test_a_source_that_answers_nothing(launch, work, wall_s):
    """It is believed by the wall clocks, as far as that can be; else what was measured here counts."""
    a = watch(launch)
    uri, way = moving.free_uri(), moving.free_uri()
    b = launch("b", incoming=uri, env=Host(work, "b", wall_s, slow_ms=SLOW_MS).env)
    moving.wait_listening(b)
    with faulty.Proxy(way, uri, at=without_features) as p:
        event = moved(a, b, way)
        assert not p.error and faulty.CLOCK not in p.passed
    check_steps(seen(b), 2 * SLOW_MS - 20, most_of(event))
    assert "x-testudo-clock-difference-ms" not in event
    told = warnings(b.log())
    assert len(told) == (wall_s != 0), b.log()
    assert not told or "NTP" in told[0] and re.search(r"3[56]\d\d\.\d s", told[0]), told


def test_a_source_that_answers_nothing_refused_by_policy(launch, work, policy_file):
    a = watch(launch)
    uri, way = moving.free_uri(), moving.free_uri()
    b = launch("b", "--policy", policy_file("clock-difference: refuse\n"), incoming=uri, env=Host(work, "b", HOUR).env)
    moving.wait_listening(b)
    with faulty.Proxy(way, uri, at=without_features):
        code, _, err = migrate(a, way)
    assert code == REFUSED and "clock-difference: refuse" in err and "it goes on at the source" in err, err
    check_steps(seen(a), 0, harness.patience(1) * 1000)


# ---- files

@pytest.mark.parametrize("wall_s, args, passed_s", [
    (HOUR, [], 0), (-HOUR, [], 0), (HOUR, ["--clock-realtime"], HOUR), (-HOUR, ["--clock-realtime"], 0)])
def test_from_a_file(launch, work, wall_s, args, passed_s):
    """Its time stands still in a file, or goes on by the time of day, which never takes it back."""
    saved(watch(launch), f"{work}/snap")
    b = launch("b", *args, incoming=f"file:{work}/snap", env=Host(work, "b", wall_s).env)
    clocks = seen(b)
    check_steps(clocks, passed_s * 1000, (passed_s + harness.patience(30 if passed_s else 1)) * 1000)
    told = [line for line in b.log().splitlines() if "--clock-realtime" in line]
    assert len(told) == (bool(args) and wall_s < 0), b.log()
    if told:
        assert "NTP" in told[0] and re.search(r"saved 3[56]\d\d s", told[0]), told


def test_a_file_from_the_future_refused_by_policy(launch, work, policy_file):
    saved(watch(launch), f"{work}/snap")
    b = launch("b", "--clock-realtime", "--policy", policy_file("clock-difference: refuse\n"),
               incoming=f"file:{work}/snap", env=Host(work, "b", -HOUR).env)
    assert b.end() == REFUSED, b.log()
    assert "clock-difference: refuse" in b.log() and "NTP" in b.log(), b.log()
    c = launch("c", "--policy", policy_file("clock-difference: refuse\n"), incoming=f"file:{work}/snap",
               env=Host(work, "c", -HOUR).env)
    check_steps(seen(c), 0, harness.patience(1) * 1000)


@pytest.mark.nokvm
@pytest.mark.parametrize("args", [[], ["--incoming", "tcp:127.0.0.1:0"]])
def test_clock_realtime_is_for_files(work, args):
    r = harness.run_raw(["run", "--clock-realtime", *args, "-k", "x"], work)
    r.expect_error(harness.USAGE, "--clock-realtime", "--incoming file:")


# ---- frequencies

def saved_khz(path):
    """Of the TSC of a saved guest with one vCPU"""
    frames, _, _ = front(path)
    _, _, start, end = next(f for f in frames if f[0] == "state")
    state = path.read_bytes()[start:end]
    at = state.index(struct.pack("<H", 4) + b"time") + 2 + 4 + 2 + 2 + 4
    return struct.unpack_from("<I", state, at + 8 + 3 * 8)[0]


# the host's frequency by the guest's, with or without scaling, and may it run there?
FREQUENCIES = {"slower host": (0.7, 0, False), "faster host": (1.4, 0, False), "near": (1.0002, 0, True),
               "just too far": (1.0003, 0, False), "slower, scaled": (0.7, 1, True), "faster, scaled": (1.4, 1, True)}


@pytest.mark.parametrize("ratio, scaling, taken", FREQUENCIES.values(), ids=FREQUENCIES)
def test_the_frequency_there(launch, work, ratio, scaling, taken):
    """KVM says yes to a frequency above the host's that it cannot scale to, and does not keep the word."""
    a = watch(launch, env=Host(work, "a", invariant=1).env)
    saved(a, f"{work}/one", "--keep-running")
    khz = saved_khz(pathlib.Path(work, "one"))
    there = Host(work, "b", invariant=1, tsc_khz=round(khz * ratio), scaling=scaling).env
    uri = moving.free_uri()
    b = launch("b", incoming=uri, env=there)
    moving.wait_listening(b)
    code, _, err = migrate(a, uri, "--dry-run")
    assert code == (MOVED if taken else SOURCE_RUNS), err
    restored = launch("c", incoming=f"file:{work}/one", env=there)
    if taken:
        moved(a, b, uri)
        moving.wait_running(b)
        saved(b, f"{work}/two", "--keep-running")
        assert saved_khz(pathlib.Path(work, "two")) == khz, "small differences add up"
        seen(restored)
        return
    assert "TSC" in err and f"{khz} kHz" in err and "it goes on at the source" in err, err
    assert restored.end() == harness.BAD_INPUT and f"{khz} kHz" in restored.log(), restored.log()
    code, _, err = migrate(a, uri)
    assert code == SOURCE_RUNS and f"{khz} kHz" in err, err
    check_steps(seen(a), 0, harness.patience(1) * 1000)


def test_a_guest_that_was_promised_nothing(launch, work):
    """Its kernel knows that the TSC may change, and is told by kvmclock; the operator by the log."""
    saved(watch(launch, env=Host(work, "a", variant=1).env), f"{work}/one")
    khz = saved_khz(pathlib.Path(work, "one"))
    b = launch("b", incoming=f"file:{work}/one", env=Host(work, "b", variant=1, tsc_khz=2 * khz).env)
    moving.wait_running(b)
    told = [line for line in b.log().splitlines() if "kHz" in line]
    assert len(told) == 1 and f"{khz} kHz" in told[0] and f"{2 * khz} kHz" in told[0], b.log()
