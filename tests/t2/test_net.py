"""An unmodified Debian guest on the network: it pings the emulated host and moves data by TCP over a tap, both ways."""
import pytest

from test_linux import FACT, MIB, facts, make_image

HOST, GUEST = "10.77.0.1", "10.77.0.2"
MAC = "52:54:00:7e:57:0d"
DOWN_MIB, UP_MIB = 12, 8

SCRIPT = FACT + f"""
ip address add {GUEST}/24 dev eth0
ip link set eth0 up
# Linux takes the link as up a moment later, and drops what is sent before.
until grep -q up /sys/class/net/eth0/operstate; do sleep 0.1; done
fact mac cat /sys/class/net/eth0/address
fact features cat /sys/class/net/eth0/device/features
fact ping ping -c 5 -W 10 {HOST}
fact down sh -c 'wget -q -O - http://{HOST}/down | sha256sum'
fact received sh -c 'cd /sys/class/net/eth0/statistics; cat rx_bytes rx_packets rx_errors'
# The guest serves, too, until the host says that it has all.
mkdir /tmp/www
dd if=/dev/urandom of=/tmp/www/up bs=1M count={UP_MIB} 2>/dev/null
fact sum sha256sum /tmp/www/up
httpd -h /tmp/www
echo come | nc {HOST} 5000
fact asked nc -l -p 5001
exit 0
"""


@pytest.fixture(scope="module")
def network(amd_stock):
    """One boot; what the guest and the host saw of each other."""
    down = make_image(amd_stock, "down", DOWN_MIB)
    amd_stock.check(f"tunctl -t t0 && ip address add {HOST}/24 dev t0 && ip link set t0 up")
    amd_stock.check(f"""httpd -p {HOST}:80 -h /scratch
# Whoever calls before the guest is there spends the kernel's patience with its address.
(
	nc -l -p 5000
	until wget -q -O /scratch/up http://{GUEST}/up; do sleep 0.2; done
	until echo thanks | nc {GUEST} 5001; do sleep 0.2; done
) >/dev/null 2>&1 &""")
    boot = amd_stock.boot(SCRIPT, cpus=2, append="quiet", timeout=120, args=["-n", f"tap=t0,mac={MAC}"])
    seen = facts(boot.output)
    seen["boot"] = boot
    seen["host down"] = amd_stock.check(f"sha256sum <{down}").split()[0]
    seen["host up"] = amd_stock.check("sha256sum </scratch/up").split()[0]
    seen["host received"] = amd_stock.check("cd /sys/class/net/t0/statistics; cat rx_bytes rx_packets")
    amd_stock.check("killall httpd; tunctl -d t0; rm /scratch/down /scratch/up")
    return seen


def test_guest_has_the_address_given(network):
    assert network["mac"] == MAC
    assert network["boot"].status == 0, network["boot"]


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
