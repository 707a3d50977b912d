"""An unmodified Debian guest under load moves from process to process in one emulated host, and between two hosts.

A guest of two CPUs checks its disk with fio and its memory by sums, receives a stream over one TCP connection that lasts
over all moves, and tells the host its clocks over another. In some of the processes vhost-net serves its network.

busybox's nc ends when the other side has said all: hence the inputs that never end.
"""
import contextlib
import json
import os
import pathlib
import re

import pytest

import files
from host import HostError, parse_scripts
from test_linux import FACT, facts

pytestmark = pytest.mark.skipif(os.environ.get("T2_VMM", "testudo") != "testudo", reason="moves testudo's guests")

HOST, SECOND, GUEST = "10.78.0.1", "10.78.0.3", "10.78.0.2"
MAC = "52:54:00:7e:57:0e"
HOPS = [("unix", []), ("tcp", []), ("unix", ["--local"]), ("tcp", [])]
VHOST = [True, True, False, True, False]	# in the first process and after each hop
DISK_MIB = 16
BLOCK = 128 << 10
DRIFT_S = 0.1		# of the guest's clocks against the host's, over a move
SEEN_S = 10		# the guest's pause beyond what testudo says: slowing it down, and others on its CPU, are in it
COMPONENTS = 0x207	# of XSAVE: x87, SSE, AVX, protection keys
ROWS = 20		# looks at the clocks after a move

# What the kernel may say on a machine that is short of CPU, not for moving.
BUSY = "perf: interrupt took too long|hrtimer: interrupt took|Long readout interval"

NETWORK = f"""
ip address add {GUEST}/24 dev eth0
ip link set eth0 up
until grep -q up /sys/class/net/eth0/operstate; do sleep 0.1; done
"""

START = FACT + NETWORK + f"""
# Pure shell but for the wait: what the clocks say, as often as the guest runs.
while :; do
	read -r up rest </proc/uptime
	echo "$up $EPOCHREALTIME"
	usleep 20000
done | nc {HOST} 5002 &
clock=$!

# Each block of the stream is what it has to be.
wget -q -O /tmp/block http://{HOST}/block
tail -f /dev/null | nc {HOST} 5000 | while dd bs={BLOCK} count=1 iflag=fullblock of=/tmp/got 2>/dev/null &&
	cmp -s /tmp/got /tmp/block; do
	echo >>/tmp/blocks
done &
stream=$!

# Memory: written anew and summed, for ever.
while :; do
	dd if=/dev/urandom of=/tmp/memory bs=1M count=4 2>/dev/null
	sum=$(sha256sum </tmp/memory)
	sleep 0.5
	[ "$sum" = "$(sha256sum </tmp/memory)" ] || echo "memory has changed" >>/tmp/damage
	echo >>/tmp/sums
done &
memory=$!
"""

# The second disk is the host's with its programs.
FIO = f"""
# fio asks for more memory than it touches.
echo 1 >/proc/sys/vm/overcommit_memory
mkdir -p /t2 /usr && mount -t ext4 -o ro /dev/vdb /t2
ln -s /t2/lib64 /lib64; ln -s /t2/lib /lib; ln -s /t2/usr/lib /usr/lib
/t2/bin/fio --name=disk --filename=/dev/vda --rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=8 \\
	--size={DISK_MIB}M --io_size=1G --rate_iops=80 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --thread \\
	--output=/tmp/fio --output-format=json >/tmp/fio.out 2>&1 &
fio=$!
until read -r _ _ _ _ writes _ </sys/block/vda/stat && [ "$writes" -gt 64 ]; do sleep 0.2; done
"""

# Extended state, beside which the rest of the load has its time.
HOLD = """
/opt/xstate 3 >/tmp/xstate 2>&1 &
xstate=$!
until [ -s /tmp/xstate ] || ! kill -0 $xstate; do sleep 0.1; done
"""

HELD = """
kill $xstate
wait $xstate
fact xstate cat /tmp/xstate
"""

LOADED = """
until [ -s /tmp/blocks ] && [ -s /tmp/sums ]; do sleep 0.2; done
echo "now it moves" >/dev/kmsg
echo "@@@under load" >/dev/console
fact asked nc -l -p 5001
fact stream sh -c "kill -0 $stream && echo flows"
kill $clock $stream $memory
"""

FIO_END = """
kill -INT $fio
wait $fio
fact fio.out cat /tmp/fio.out
fact fio cat /tmp/fio
"""

END = """
fact blocks sh -c 'wc -l </tmp/blocks'
fact sums sh -c 'wc -l </tmp/sums'
fact damage sh -c 'cat /tmp/damage 2>/dev/null'
fact clock cat /sys/devices/system/clocksource/clocksource0/current_clocksource
fact dmesg dmesg
exit 0
"""

BRIDGE = """
brctl addbr br0 && ip address add {address}/24 dev br0 && ip link set br0 up
for port in t0 t1; do
	tunctl -t $port && brctl addif br0 $port && ip link set $port up
done >/dev/null
mkdir /tmp/move
"""

# For the host on the other end of the wire as well.
WIRE = "brctl addif br0 eth0 && ip link set eth0 up\n"

# The host's ends of the connections: a block a fifth of a second to the guest, and its clock beside the guest's.
ENDS = f"""
dd if=/dev/urandom of=/tmp/move/block bs={BLOCK} count=1 2>/dev/null
httpd -p {HOST}:80 -h /tmp/move
while cat /tmp/move/block; do usleep 200000; done 2>/dev/null | nc -l -p 5000 >/dev/null 2>&1 &
tail -f /dev/null | nc -l -p 5002 2>/dev/null | while read -r line; do
	read -r up rest </proc/uptime
	echo "$line $up $EPOCHREALTIME"
done >/tmp/move/clock &
"""

CLEAN = """
killall testudo httpd nc tail 2>/dev/null
until ! testudo list | grep -q .; do sleep 0.2; done
ip link set br0 down && brctl delbr br0
for port in t0 t1; do tunctl -d $port; done >/dev/null
rm -rf /tmp/move /scratch/move.img
"""


@contextlib.contextmanager
def network(host, address, more=""):
    """A bridge with two taps in @host, and what @more sets up in /tmp/move; nothing is left of it afterwards."""
    try:
        host.check(BRIDGE.format(address=address) + more)
        yield
    finally:
        host.check(CLEAN, 60)


class Traveller:
    """A guest that runs @script and moves from testudo process to testudo process, first on @host. @args: what every
    process is given, TAP being its interface, VHOST on where @vhost says so for the process of that number; @start: what
    the first is given besides; @append: more for the kernel's command line; @more: files for the guest; @env: variables of
    every process."""

    def __init__(self, host, script, args, start="", append="", more=None, vhost=(), env=""):
        self.home = self.host = host
        host.put(files.cpio({"run.sh": script.encode(), **(more or {})}), "/tmp/move/more.cpio")
        host.check("cat /t2/guest/initrd /tmp/move/more.cpio >/tmp/move/initrd")
        self.args = args
        self.env = env
        self.vhost = vhost
        self.number = 0
        self._launch(f"-i /tmp/move/initrd -c 2 -m 128 -p 'panic=-1 quiet {append}' {start}")

    @property
    def name(self):
        return f"m{self.number}"

    def _launch(self, more):
        """Its output is in /tmp/move/NAME.*: console, log, report, and status when it has ended."""
        to = f"/tmp/move/{self.name}"
        args = self.args.replace("TAP", f"t{self.number % 2}")
        args = args.replace("VHOST", "on" if self.number < len(self.vhost) and self.vhost[self.number] else "off")
        self.host.check(f"({self.env} testudo run --name {self.name} --serial file:{to}.console --mitigation-report {to}.json "
                        f"-k /t2/guest/vmlinuz {args} {more} >{to}.log 2>&1 </dev/null\n"
                        f"echo $? >{to}.status) >/dev/null 2>&1 &")

    def wait(self, condition, seconds):
        """Until the shell's @condition holds in the host, unless the guest's process ends before."""
        end = f"/tmp/move/{self.name}.status"
        status, _ = self.host.run(f"ended=; for i in $(seq {seconds * 5}); do [ ! -e {end} ] || ended=yes\n"
                                  f"! {condition} || exit 0; [ -z \"$ended\" ] || exit 9; sleep 0.2; done; exit 8", seconds * 2)
        assert status == 0, f"waited for: {condition}\n{self.story()}"

    def wait_end(self, host, name):
        status = host.run(f"for i in $(seq 1200); do [ ! -s /tmp/move/{name}.status ] || break; sleep 0.1; done\n"
                          f"cat /tmp/move/{name}.status", 240)[1]
        assert status == "0\n", f"{name} ended with {status!r}\n{self.story()}"

    def story(self):
        return "".join(host.run("cd /tmp/move; for file in *.log *.status; do echo \"-- $file\"; cat $file; done\n"
                                "for file in *.console; do echo \"-- $file\"; tail -c 3000 $file; done")[1]
                       for host in dict.fromkeys((self.home, self.host)))

    def rows(self):
        """[(uptime, time of day in the guest; the same in the first host)], s"""
        return [tuple(map(float, line.split())) for line in self.home.get("/tmp/move/clock").decode().splitlines()
                if line.count(" ") == 3]

    def wait_rows(self, more=ROWS):
        """Until @more looks at the guest's clocks have come. Return: all"""
        want = len(self.rows()) + more
        status, _ = self.home.run(f"for i in $(seq 300); do [ $(wc -l </tmp/move/clock) -lt {want} ] || exit 0\n"
                                  "sleep 0.2; done; exit 8", 120)
        assert status == 0, f"the guest does not tell its clocks any more\n{self.story()}"
        return self.rows()

    def move(self, uri, options=(), host=None, there=""):
        """To a new process, on @host if not on the same, that gets the options @there. Return: the last event of testudo migrate"""
        source, old = self.host, self.name
        self.host = host or source
        self.number += 1
        self._launch(f"--incoming {uri.replace(HOST, '0.0.0.0').replace(SECOND, '0.0.0.0')} {there}")
        self.wait(f"testudo list | grep -q '^{self.name} '", 60)
        try:
            event = source.json(f"testudo migrate {old} {uri} --json --downtime-ms 300 --timeout 40 "
                                f"--on-timeout force {' '.join(options)}", 200)
        except HostError as error:
            raise HostError(f"{error}\n{self.story()}") from None
        self.wait_end(source, old)	# its tap may be the next one's
        return event

    def through_file(self, path):
        """Into a file, and from there to a new process."""
        old = self.name
        self.number += 1
        self.host.check(f"testudo save {old} {path} --force", 120)
        self.wait_end(self.host, old)
        self._launch(f"--incoming file:{path}")

    def end(self):
        """Tells the guest that it may end. Return: what it has printed, as facts"""
        self.home.check(f"until echo enough | nc {GUEST} 5001; do sleep 0.5; done", 60)
        self.wait_end(self.host, self.name)
        console = self.host.get(f"/tmp/move/{self.name}.console").decode(errors="replace").replace("\r", "")
        assert parse_scripts(console), f"the guest's script has no end\n{self.story()}"
        [(status, output)] = parse_scripts(console)
        assert status == 0, output
        return facts(output)


def check_kept(facts, threads):
    """What the program xstate says at its end: nothing was lost by threads that have looked."""
    first, *rest = facts["xstate"].splitlines()
    assert first == f"xstate components={COMPONENTS:#x}"
    looks = [int(count) for count in re.findall(r"^xstate thread=\d+ patterns=\d+ looks=(\d+)$", "\n".join(rest),
                                                re.MULTILINE)]
    assert len(looks) == len(rest) == threads and min(looks) > 0, facts["xstate"]


def guest_files(*programs):
    """What Traveller has to be given as more, for the guest to find @programs in /opt."""
    tree = {f"opt/{pathlib.Path(program).name}": pathlib.Path(program).read_bytes() for program in programs}
    return tree | {path.lstrip("/"): pathlib.Path(path).read_bytes() for program in programs
                   for path in files.libraries(program)}


def offset(rows, guest, host):
    """How far a clock of the host is ahead of the guest's, s: the looks that were under way the shortest tell."""
    return min(row[host] - row[guest] for row in rows)


def longest_gap(rows):
    return max(b[0] - a[0] for a, b in zip(rows, rows[1:]))


def complaints(dmesg):
    """What the guest's kernel has said since it was under load."""
    later = dmesg.split("now it moves")[1:]
    assert later, dmesg
    return [line for line in later[0].splitlines() if line and not re.search(BUSY, line)]


def check_never_back(rows):
    for clock, name in ((0, "uptime"), (1, "time of day")):
        back = [(a[clock], b[clock]) for a, b in zip(rows, rows[1:]) if b[clock] < a[clock]]
        assert not back, f"the guest's {name} went back: {back}"


# One host

@pytest.fixture(scope="module")
def life(amd_stock):
    """A guest's whole life: the clocks it told between the moves, what the moves said, what it said at its end."""
    with network(amd_stock, HOST, ENDS + f"truncate -s {DISK_MIB}M /scratch/move.img"):
        return live(amd_stock)


def served_by_vhost(host):
    """Is there the kernel's thread for a process with vhost, all others having ended?"""
    return host.run("ps | grep -q '[v]host-'")[0] == 0


def live(host):
    guest = Traveller(host, START + FIO + LOADED + FIO_END + END,
                      f"-d /scratch/move.img -d /dev/vda,ro -n tap=TAP,mac={MAC},vhost=VHOST", vhost=VHOST)
    guest.wait("grep -qs '@@@under load' /tmp/move/m0.console", 150)
    rows = guest.wait_rows()
    stays, moves, served = [rows], [], [served_by_vhost(host)]
    for number, (kind, options) in enumerate(HOPS, 1):
        seen = len(rows)
        event = guest.move(f"unix:/tmp/move/way{number}" if kind == "unix" else f"tcp:127.0.0.1:{7000 + number}", options)
        at = len(guest.rows())
        rows = guest.wait_rows()
        moves.append({"event": event, "rows": rows[seen - 1:at + ROWS // 2]})
        stays.append(rows[at:])
        served.append(served_by_vhost(host))
    consoles = host.check("cat /tmp/move/m[0-3].console")
    logs = host.check("cd /tmp/move; cat m[0-4].log")
    last = guest.end()
    return {"rows": rows, "stays": stays, "moves": moves, "last": last, "served": served, "consoles": consoles,
            "logs": logs, "reports": [json.loads(host.get(f"/tmp/move/m{number}.json")) for number in range(len(HOPS) + 1)]}


def test_every_move_ends_well(life):
    assert [move["event"]["x-testudo-outcome"] for move in life["moves"]] == ["moved"] * len(HOPS)
    assert "error" not in life["logs"] and "warning" not in life["logs"], life["logs"]


def test_vhost_serves_where_it_should(life):
    """So the guest has moved from vhost to vhost, to testudo, and back."""
    assert life["served"] == VHOST


def test_disk_holds_what_was_written(life):
    text = life["last"]["fio"]
    job, = json.loads(text[text.index("{"):])["jobs"]
    assert job["error"] == 0 and life["last"]["fio.out"] == "", text
    assert job["write"]["total_ios"] >= 256 and job["read"]["total_ios"] >= 128, "fio has hardly run"


def test_stream_flows_on(life):
    """Over one connection, the host sending; the clocks come over another, the guest sending."""
    assert life["last"]["asked"] == "enough"
    assert life["last"]["stream"] == "flows"
    assert int(life["last"]["blocks"]) >= 4 * len(HOPS)


def test_memory_is_what_was_written(life):
    assert life["last"]["damage"] == ""
    assert int(life["last"]["sums"]) >= 2


def test_clocks_never_go_back(life):
    check_never_back(life["rows"])


@pytest.mark.parametrize("guest, host", [(0, 2), (1, 3)], ids=["uptime", "time-of-day"])
def test_clocks_stay_right(life, guest, host):
    offsets = [offset(rows, guest, host) for rows in life["stays"]]
    assert max(offsets) - min(offsets) < DRIFT_S, offsets
    assert life["last"]["clock"] == "kvm-clock"


def test_pause_is_what_testudo_says(life):
    """The guest sees the pause go by: not hidden from its clocks, and not much longer."""
    for move in life["moves"]:
        said, seen = move["event"]["x-testudo-downtime-us"] / 1e6, longest_gap(move["rows"])
        assert said - 0.05 < seen < said + SEEN_S, (said, seen)


def test_kernel_has_nothing_to_say(life):
    assert complaints(life["last"]["dmesg"]) == [], life["last"]["dmesg"]


def test_console_goes_on_at_the_destination(life):
    """What is printed before a move is at the source, what comes later at the destination; nothing is printed twice."""
    assert life["consoles"].count("@@@under load") == 1 and "@@@begin" not in life["consoles"]


def test_guest_is_shown_the_same(life):
    """The contract is the first boot's, on every host on the way."""
    first, *others = life["reports"]
    assert first["guest"]["arch-capabilities"] != "0x0"
    for report in others:
        assert report["guest"] == first["guest"]
        assert [vcpu["verdict"] for vcpu in report["vcpus"]] == ["allow", "allow"]


# Two hosts

@pytest.fixture(scope="module")
def crossing(amd_stock, amd_second, xstate):
    """A guest goes from one host to the other. Its clocks, and the block it checks, still pass through the first."""
    with network(amd_stock, HOST, WIRE + ENDS), network(amd_second, SECOND, WIRE):
        guest = Traveller(amd_stock, START + HOLD + LOADED + HELD + END, f"-n tap=TAP,mac={MAC}", more=guest_files(xstate))
        guest.wait("grep -qs '@@@under load' /tmp/move/m0.console", 150)
        before = guest.wait_rows()
        apart = time_apart(amd_stock, amd_second)
        event = guest.move(f"tcp:{SECOND}:7001", host=amd_second)
        at = len(guest.rows())
        rows = guest.wait_rows()
        return {"event": event, "rows": rows, "before": before, "after": rows[at:], "apart": apart, "last": guest.end()}


def time_apart(host, other):
    """How far the time of day of @other is ahead of that of @host, s: (at least, at most)."""
    bounds = []
    for _ in range(5):
        first, between, last = (float(which.check("echo $EPOCHREALTIME")) for which in (host, other, host))
        bounds.append((between - last, between - first))
    return max(low for low, _ in bounds), min(high for _, high in bounds)


def test_crossing_ends_well(crossing):
    last = crossing["last"]
    assert crossing["event"]["x-testudo-outcome"] == "moved"
    assert (last["stream"], last["damage"], last["clock"]) == ("flows", "", "kvm-clock")
    assert int(last["sums"]) >= 2 and int(last["blocks"]) >= 4
    assert complaints(last["dmesg"]) == []


def test_crossing_keeps_extended_state(crossing):
    check_kept(crossing["last"], 3)


def test_crossing_clocks(crossing):
    """The guest's go on by the pause, however far the hosts' times of day are apart: docs/migration.md."""
    check_never_back(crossing["rows"])
    for guest, host in ((0, 2), (1, 3)):
        ahead = offset(crossing["before"], guest, host) - offset(crossing["after"], guest, host)
        assert abs(ahead) < DRIFT_S, (ahead, crossing["apart"])
    low, high = crossing["apart"]
    assert -high - DRIFT_S < crossing["event"]["x-testudo-clock-difference-ms"] / 1000 < -low + DRIFT_S


# Mitigations

TOLD = FACT + NETWORK + """
rdmsr() { dd if=/dev/cpu/$1/msr bs=8 count=1 iflag=skip_bytes skip=$(($2)) 2>/dev/null | hexdump -ve '1/1 "%02x"'; }
look() { for cpu in 0 1; do for msr in 0x10a 0x48 0x50000000 0x50000001 0x50000002; do echo "$cpu $msr $(rdmsr $cpu $msr)"; done; done; }
fact said /opt/testudo-guest-report
fact before look
echo "@@@under load" >/dev/console
fact asked nc -l -p 5001
fact after look
exit 0
"""


@pytest.fixture(scope="module")
def pool(amd_stock, guest_report):
    """A guest with retpolines, which it reports, goes from a host taken for an Ice Lake to one taken for a Sapphire
    Rapids. The CPU is neither, and keeps whatever is written to its SPEC_CTRL."""
    with network(amd_stock, HOST):
        for name in ("icelake-server", "sapphire-rapids"):
            amd_stock.put((files.TOP / f"tests/data/hosts/{name}.json").read_bytes(), f"/tmp/move/{name}.facts")
        guest = Traveller(amd_stock, TOLD, f"-n tap=TAP,mac={MAC}", "--host-facts /tmp/move/icelake-server.facts",
                          append="spectre_v2=retpoline spectre_bhi=off", more=guest_files(guest_report))
        guest.wait("grep -qs '@@@under load' /tmp/move/m0.console", 150)
        # what it reported last is in the file a moment later
        guest.wait("[ $(grep -c '\"written\": true' /tmp/move/m0.json) = 2 ]", 30)
        here = json.loads(amd_stock.get("/tmp/move/m0.json"))
        event = guest.move("unix:/tmp/move/way", there="--host-facts /tmp/move/sapphire-rapids.facts")
        last = guest.end()
        return {"here": here, "there": json.loads(amd_stock.get("/tmp/move/m1.json")), "event": event, "last": last}


def test_report_survives(pool):
    assert "report: RETPOLINE_S_USED" in pool["last"]["said"]
    for there, here in zip(pool["there"]["vcpus"], pool["here"]["vcpus"]):
        assert here["report"]["written"] and there["report"] == here["report"]


def test_guest_sees_no_difference(pool):
    assert pool["last"]["after"] == pool["last"]["before"]
    assert pool["there"]["guest"] == pool["here"]["guest"]


def test_destination_decides_anew(pool):
    """A part with RRSBA holds RRSBA_DIS_S for a guest that relies on retpolines; the older one has neither."""
    assert [vcpu["held"]["at-1"] for vcpu in pool["here"]["vcpus"]] == [[], []]
    assert [vcpu["held"]["at-1"] for vcpu in pool["there"]["vcpus"]] == [["RRSBA_DIS_S"]] * 2
    assert [int(vcpu["effective"]["value"], 16) & 0x40 for vcpu in pool["there"]["vcpus"]] == [0x40] * 2
