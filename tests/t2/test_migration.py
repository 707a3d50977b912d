"""An unmodified Debian guest under load moves from process to process in one emulated host, and between two hosts.

All of one life: a guest of two CPUs checks its disk with fio, its memory by sums, and one TCP connection each way that
lasts over all moves; a third tells the host its clocks all the while.
"""
import json
import re
import time

import pytest

from test_linux import FACT, facts

HOST, GUEST = "10.78.0.1", "10.78.0.2"
MAC = "52:54:00:7e:57:0e"
HOPS = [("unix", []), ("tcp", []), ("unix", ["--local"]), ("tcp", [])]
DISK_MIB = 16
BLOCK = 128 << 10

# A clock of the guest, as the host gets it: uptime and time of day there; uptime and time of day here.
GUEST_SCRIPT = FACT + f"""
mkdir -p /t2 /usr && mount -t ext4 -o ro /dev/vdb /t2
ln -s /t2/lib64 /lib64; ln -s /t2/lib /lib; ln -s /t2/usr/lib /usr/lib
ip address add {GUEST}/24 dev eth0
ip link set eth0 up
until grep -q up /sys/class/net/eth0/operstate; do sleep 0.1; done

# Pure shell but for the wait: what the clocks say, as often as the guest runs.
while :; do
	read -r up rest </proc/uptime
	echo "$up $EPOCHREALTIME"
	usleep 5000
done | nc {HOST} 5002 &

# One connection for all moves; each block of it is what it has to be.
wget -q -O /tmp/block http://{HOST}/block
nc {HOST} 5000 | while dd bs={BLOCK} count=1 iflag=fullblock of=/tmp/got 2>/dev/null && cmp -s /tmp/got /tmp/block; do
	echo >>/tmp/blocks
done &

# Memory: written anew and summed, for ever.
while :; do
	dd if=/dev/urandom of=/tmp/memory bs=1M count=4 2>/dev/null
	sum=$(sha256sum </tmp/memory)
	sleep 0.2
	[ "$sum" = "$(sha256sum </tmp/memory)" ] || echo "memory has changed" >>/tmp/damage
	echo >>/tmp/sums
done &

/t2/bin/fio --name=disk --filename=/dev/vda --rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=8 \\
	--size={DISK_MIB}M --io_size=1G --rate_iops=150 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --thread \\
	--output=/tmp/fio --output-format=json >/tmp/fio.out 2>&1 &
fio=$!
until [ -s /tmp/blocks ] && [ -s /tmp/sums ]; do sleep 0.2; done
echo "@@@under load" >/dev/console

fact asked nc -l -p 5001
kill -INT $fio
wait $fio
fact fio.out cat /tmp/fio.out
fact fio cat /tmp/fio
fact blocks sh -c 'wc -l </tmp/blocks'
fact sums sh -c 'wc -l </tmp/sums'
fact damage cat /tmp/damage
fact clock cat /sys/devices/system/clocksource/clocksource0/current_clocksource
fact dmesg dmesg
exit 0
"""
