"""virtio-net: the guest talks to sockets of this host over a tap in a network namespace of its own."""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

import harness
from harness import BAD_INPUT, OFF

HOST, GUEST = "10.77.0.1", "10.77.0.2"

# Sends back what comes to port 7.
ECHO = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("{HOST}", 7))
print("ready", flush=True)
while True:
    data, sender = s.recvfrom(65536)
    s.sendto(data, sender)
"""

# Sends datagrams of the sizes given to the guest and prints "ok" for each that comes back as it was.
ASK = f"""
import random, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout({harness.patience(10)})
for size in map(int, sys.argv[1:]):
    data = random.randbytes(size)
    s.sendto(data, ("{GUEST}", 7))
    answer, sender = s.recvfrom(65536)
    print("ok" if (answer, sender) == (data, ("{GUEST}", 7)) else "wrong", flush=True)
"""

# Becomes the command in its arguments, with the tap of its first as descriptor 5.
HAND_OVER = """
import fcntl, os, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", sys.argv[1].encode(), int(sys.argv[2], 0)))
os.dup2(fd, 5)
os.execv(sys.argv[3], sys.argv[3:])
"""
TAP_FLAGS = 0x2 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR


def why_not():
    if os.geteuid() != 0:
        return "network namespaces are made as root"
    if not shutil.which("ip"):
        return "ip is not installed; run tools/setup test"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun; modprobe tun"
    return None


class Network:
    """A namespace with a tap "t0" that has the address HOST."""

    def __init__(self, name):
        self.name = name
        self.prefix = ["ip", "netns", "exec", name]

    def ip(self, words):
        subprocess.run(["ip", "-n", self.name, *words.split()], check=True)

    def python(self, script, *args):
        return subprocess.Popen([*self.prefix, sys.executable, "-c", script, *map(str, args)],
                                stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def net():
    why = why_not()
    if why:
        pytest.skip(why)
    n = Network(f"testudo-{os.getpid()}")
    made = subprocess.run(["ip", "netns", "add", n.name], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespace: {made.stderr.strip()}")
    try:
        n.ip("tuntap add t0 mode tap")
        n.ip(f"address add {HOST}/24 dev t0")
        n.ip("link set t0 up mtu 9000")
        yield n
    finally:
        subprocess.run(["ip", "netns", "delete", n.name], check=True)


@pytest.fixture
def echo(net):
    with net.python(ECHO) as server:
        assert server.stdout.readline() == "ready\n"
        yield
        server.kill()


@pytest.mark.parametrize("size", [1, 1000, 1472, 8000])
@pytest.mark.parametrize("mrg,rx", [(0, 16384), (1, 2048), (1, 256)])
@pytest.mark.parametrize("csum", [0, 1])
def test_echo(testudo, net, echo, size, mrg, rx, csum):
    """There and back; received in one buffer, in few or in many."""
    r = testudo(f"net n=20 size={size} mrg={mrg} rx={rx} csum={csum}", "-n", "tap=t0", prefix=net.prefix)
    r.expect(OFF, "done net")
    assert r.facts("net echoes") == {"echoes": "20", "bad_bytes": "0"}


def test_guest_answers(live, net):
    with live("net op=answer n=40 mrg=1 rx=512", "-n", "tap=t0", prefix=net.prefix) as t:
        t.read_until(b"net ready")
        with net.python(ASK, *[1 + i * 179 for i in range(40)]) as client:
            assert client.stdout.read().split() == ["ok"] * 40
        t.read_until(b"done net\n")
        assert t.end(None) == OFF


def qmp(path, *commands):
    """Runs the commands on a control socket, one after the other."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(harness.patience())
        s.connect(path)
        with s.makefile("rw") as f:
            f.readline()  # the greeting
            for command in ("qmp_capabilities", *commands):
                f.write(json.dumps({"execute": command}) + "\n")
                f.flush()
                answer = {}
                while "return" not in answer:
                    answer = json.loads(f.readline())
                    assert "error" not in answer, answer


def test_paused_guest_finds_its_frames_later(live, net, work):
    prefix = [*net.prefix, "env", f"XDG_RUNTIME_DIR={work}"]
    control = os.path.join(work, "testudo", "n", "qmp.sock")
    with live("net op=answer n=3", "--name", "n", "-n", "tap=t0", prefix=prefix) as t:
        t.read_until(b"net ready")
        with net.python(ASK, 100) as client:
            assert client.stdout.read() == "ok\n"
        qmp(control, "stop")
        with net.python(ASK, 100, 200) as client:
            assert not select.select([client.stdout], [], [], 1)[0], "a guest that stands still answered"
            qmp(control, "cont")
            assert client.stdout.read() == "ok\nok\n"
        t.read_until(b"done net\n")
        assert t.end(None) == OFF


def test_more_than_the_guest_has_room_for(live, net):
    """A burst fills the guest's ring: testudo waits without turning in circles, later frames come through."""
    with live("net op=info end=hlt", "-n", "tap=t0", prefix=net.prefix) as t:
        t.read_until(b"done net")
        with net.python("import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
                        "s.setsockopt(1, 6, 1)\n"  # SOL_SOCKET, SO_BROADCAST
                        "for i in range(600): s.sendto(bytes(1000), ('10.77.0.255', 9))\n") as burst:
            burst.wait()
        comes_to_rest(t.p)
        assert t.end() == -signal.SIGTERM


def cpu_ticks(pid):
    """User and system time of the process, hundredths of a second."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def comes_to_rest(process):
    """It runs on, and for half a second it has next to nothing to do; one that turns in circles never has."""
    def at_rest():
        used = cpu_ticks(process.pid)
        time.sleep(0.5)
        return cpu_ticks(process.pid) - used < 10

    harness.until(at_rest, lambda: "it does not come to rest", alive=lambda: process.poll() is None)
    assert process.poll() is None


def test_mac(testudo, net):
    r = testudo("net op=info", "-n", "tap=t0,mac=52:54:00:ab:cd:ef", prefix=net.prefix).expect(OFF, "done net")
    assert r.facts("net slot")["mac"] == "52:54:00:ab:cd:ef"
    assert r.facts("net slot")["link"] == "1"
    macs = set()
    for _ in range(3):
        r = testudo("net op=info", "-v", "-n", "tap=t0", prefix=net.prefix).expect(OFF, "done net")
        mac = r.facts("net slot")["mac"]
        assert int(mac[:2], 16) & 3 == 2, mac
        assert f"network: interface=t0 mac={mac} " in r.err
        macs.add(mac)
    assert len(macs) == 3


def test_reset_keeps_mac_and_network(live, net, echo):
    with live("net n=3 end=reset", "-n", "tap=t0", prefix=net.prefix) as t:
        macs = set()
        for _ in range(3):
            start, _, t.seen = t.read_until(b"done net\n").partition(b"done net\n")
            assert b"echoes=3 bad_bytes=0" in start
            macs.update(re.findall(rb"mac=(\S+)", start))
        assert len(macs) == 1
        assert t.end() == -signal.SIGTERM


def test_two_interfaces(testudo, net, echo):
    net.ip("tuntap add t1 mode tap")
    try:
        r = testudo("net op=info nic=0", "-n", "tap=t1", "-n", "tap=t0,mac=02:00:00:00:00:01", prefix=net.prefix)
        assert r.expect(OFF, "done net").facts("net slot")["slot"] == "0"
        r = testudo("net nic=1", "-n", "tap=t1", "-n", "tap=t0,mac=02:00:00:00:00:01", prefix=net.prefix)
        assert r.expect(OFF, "done net").facts("net slot")["mac"] == "02:00:00:00:00:01"
    finally:
        net.ip("link delete t1")


def test_inherited_descriptor(net, echo, work):
    words = harness.arguments("net n=5", "-n", "fd=5")
    prefix = [*net.prefix, sys.executable, "-c", HAND_OVER, "t0", TAP_FLAGS]
    r = harness.run_raw(words, work, prefix=list(map(str, prefix)))
    r.expect(OFF, "done net")
    assert r.facts("net echoes")["echoes"] == "5"


@pytest.mark.parametrize("flags,says", [(0x1001, "IFF_VNET_HDR"), (0x1002, "IFF_VNET_HDR"), (0x5001, "IFF_TAP")])
def test_descriptor_of_another_kind(net, work, flags, says):
    prefix = [*net.prefix, sys.executable, "-c", HAND_OVER, "other", flags]
    r = harness.run_raw(harness.arguments("net", "-n", "fd=5"), work, prefix=list(map(str, prefix)))
    r.expect_error(BAD_INPUT, "fd=5", "other", says)


def test_no_such_interface(testudo, net):
    """A typo makes no new interface, not even for root."""
    testudo("net", "-n", "tap=typo", prefix=net.prefix).expect_error(BAD_INPUT, "'typo'", "ip tuntap add typo")
    links = subprocess.run(["ip", "-n", net.name, "link"], capture_output=True, text=True, check=True).stdout
    assert "typo" not in links


def test_interface_in_use(testudo, live, net):
    with live("hello end=hlt", "-n", "tap=t0", prefix=net.prefix) as t:
        t.read_until(b"done hello")
        testudo("net", "-n", "tap=t0", prefix=net.prefix).expect_error(BAD_INPUT, "'t0'", "in use")
    testudo("hello", "-n", "tap=t0", "-n", "tap=t0", prefix=net.prefix).expect_error(BAD_INPUT, "'t0'", "in use")


def test_interface_of_another_kind(testudo, net):
    testudo("net", "-n", "tap=lo", prefix=net.prefix).expect_error(BAD_INPUT, "'lo'", "not a tap")


def test_interface_of_another_user(testudo, net):
    """Without the right to it; with it, by the owner, it works without any privilege."""
    net.ip("tuntap add t2 mode tap user 12345")
    try:
        unprivileged = [*net.prefix, "setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
        r = testudo("net", "-n", "tap=t2", prefix=unprivileged)
        r.expect_error(BAD_INPUT, "'t2'", "ip tuntap add t2 mode tap user NAME", "-n fd=N")
        testudo("net op=info", "-n", "tap=t0", prefix=unprivileged).expect(OFF, "done net")
    finally:
        net.ip("link delete t2")


@pytest.mark.skipif(os.path.exists("/dev/vhost-net"), reason="this host has vhost-net: tests/t2 boots a guest with it")
def test_no_vhost(testudo, net):
    r = testudo("net", "-n", "tap=t0,vhost", prefix=net.prefix)
    r.expect_error(BAD_INPUT, "/dev/vhost-net", "modprobe vhost_net", "leave vhost out")
    testudo("net op=info", "-n", "tap=t0,vhost=off", prefix=net.prefix).expect(OFF, "done net")


def test_interface_goes_away(live, net):
    net.ip("tuntap add t3 mode tap")
    with live("net op=info end=hlt", "-n", "tap=t3", prefix=net.prefix) as t:
        t.read_until(b"done net")
        net.ip("link delete t3")
        t.wait_log("interface=t3")
        comes_to_rest(t.p)
        assert t.end() == -signal.SIGTERM


@pytest.mark.parametrize("queue", [1, 2])
def test_hostile_guest(testudo, net, queue):
    """The VMM survives, and every device works again after a reset."""
    r = testudo(f"hostile ports=0 seed=3 netq={queue}", "-n", "tap=t0", "--no-rng", prefix=net.prefix, timeout=180)
    r.expect(OFF, "done hostile")
    assert all(line.startswith("testudo: ") for line in r.log)
