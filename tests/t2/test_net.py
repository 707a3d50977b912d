"""An unmodified Debian guest on the network: it pings the emulated host and moves data by TCP over taps, both ways.

Its first interface is served by testudo itself, the second one by the host's vhost-net.
"""
import pytest

from test_linux import FACT, MIB, facts, make_image

HOST, GUEST = "10.77.{nic}.1", "10.77.{nic}.2"
MAC = "52:54:00:7e:57:0{nic}"
BACKENDS = ["testudo", "vhost"]
DOWN_MIB, UP_MIB = 12, 8

START = FACT + f"""
# The guest serves, too, until the host says that it has all.
mkdir /tmp/www
dd if=/dev/urandom of=/tmp/www/up bs=1M count={UP_MIB} 2>/dev/null
fact sum sha256sum /tmp/www/up
httpd -h /tmp/www
"""

SCRIPT = f"""
ip address add {GUEST}/24 dev eth{{nic}}
ip link set eth{{nic}} up
# Linux takes the link as up a moment later, and drops what is sent before.
until grep -q up /sys/class/net/eth{{nic}}/operstate; do sleep 0.1; done
fact mac{{nic}} cat /sys/class/net/eth{{nic}}/address
fact features{{nic}} cat /sys/class/net/eth{{nic}}/device/features
fact ping{{nic}} ping -c 5 -W 10 {HOST}
fact down{{nic}} sh -c 'wget -q -O - http://{HOST}/down | sha256sum'
fact received{{nic}} sh -c 'cd /sys/class/net/eth{{nic}}/statistics; cat rx_bytes rx_packets rx_errors'
echo come | nc {HOST} 5000
fact asked{{nic}} nc -l -p 5001
"""

# Whoever calls before the guest is there spends the kernel's patience with its address.
ENDS = f"""
	nc -l -p 5000
	until wget -q -O /scratch/up{{nic}} http://{GUEST}/up; do sleep 0.2; done
	until echo thanks | nc {GUEST} 5001; do sleep 0.2; done
"""


@pytest.fixture(scope="module")
def both(amd_stock):
    """One boot; what the guest and the host saw of each other."""
    host, nics = amd_stock, range(len(BACKENDS))
    down = make_image(host, "down", DOWN_MIB)
    args = []
    for nic in nics:
        host.check(f"tunctl -t t{nic} && ip address add {HOST}/24 dev t{nic} && ip link set t{nic} up".format(nic=nic))
        args += ["-n", f"tap=t{nic},mac={MAC},{'vhost=off' if nic == 0 else 'vhost'}".format(nic=nic)]
    # The kernel's thread for a vhost bears the number of the process it works for.
    host.check("httpd -p 80 -h /scratch\n("
               + "".join(ENDS.format(nic=nic) for nic in nics)
               + ") >/dev/null 2>&1 &\n(until ps | grep '[v]host-'; do sleep 0.2; done >/tmp/threads) >/dev/null 2>&1 &")
    boot = host.boot(START + "".join(SCRIPT.format(nic=nic) for nic in nics) + "exit 0\n", cpus=2, append="quiet",
                     timeout=180, args=args)
    seen = facts(boot.output)
    seen["boot"] = boot
    seen["threads"] = host.check("cat /tmp/threads")
    seen["host down"] = host.check(f"sha256sum <{down}").split()[0]
    for nic in nics:
        seen[f"host up{nic}"] = host.check(f"sha256sum </scratch/up{nic}").split()[0]
        seen[f"host received{nic}"] = host.check(f"cd /sys/class/net/t{nic}/statistics; cat rx_bytes rx_packets")
    host.check("killall httpd; tunctl -d t0; tunctl -d t1; rm /scratch/down /scratch/up? /tmp/threads")
    return seen


@pytest.fixture(params=range(len(BACKENDS)), ids=BACKENDS)
def network(request, both):
    """What was seen of one interface."""
    nic = str(request.param)
    return {"nic": nic, **{name.removesuffix(nic): value for name, value in both.items()}}


def test_guest_has_the_address_given(network):
    assert network["mac"] == MAC.format(**network)
    assert network["boot"].status == 0, network["boot"]
    assert "warning" not in network["boot"].messages, network["boot"]


def test_ping(network):
    assert "5 packets transmitted, 5 packets received, 0% packet loss" in network["ping"]


def test_download(network):
    assert network["down"].split()[0] == network["host down"]


def test_upload(network):
    """By a connection that the host opens."""
    assert network["sum"].split()[0] == network["host up"]
    assert network["asked"] == "thanks"


def test_offloads_are_used(network):
    """Segments travel joined: the frames are larger than any on a wire, without errors."""
    count, packets, errors = map(int, network["received"].split())
    assert count > DOWN_MIB * MIB and errors == 0
    assert count / packets > 1514, "the guest receives no large frames"
    count, packets = map(int, network["host received"].split())
    assert count > UP_MIB * MIB
    assert count / packets > 1514, "the guest sends no large frames"


def test_driver_took_all_features(network):
    bits = {number for number, bit in enumerate(network["features"]) if bit == "1"}
    # CSUM, GUEST_CSUM, MAC, GUEST_TSO4/6, HOST_TSO4/6, MRG_RXBUF, STATUS, CTRL_VQ, GUEST_ANNOUNCE, EVENT_IDX, VERSION_1
    assert {0, 1, 5, 7, 8, 11, 12, 15, 16, 17, 21, 29, 32} <= bits


def test_the_kernel_serves_one_interface(both):
    assert both["threads"].count("vhost-") == 1
