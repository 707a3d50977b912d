"""An unmodified Debian kernel and what is asked of it from outside: its power button, a pause."""

STOP = """
exec >/dev/null 2>&1
(
	until grep -qs 'waits for its button' /tmp/boot*.out; do sleep 0.2; done
	testudo list >/tmp/listed
	testudo pause debian && testudo stat debian >/tmp/paused && sleep 3 && testudo resume debian
	testudo stop debian --timeout 150 2>/tmp/stopped
	echo "stop: $?" >>/tmp/stopped
) &
"""

# struct input_event is 24 bytes: time, then type 1 (key), code 116 (power), value 1 (pressed)
BUTTON = """
name=$(grep -l 'Power Button' /sys/class/input/input*/name)
event=$(ls -d "${name%/name}"/event*)
echo "waits for its button" >/dev/console
dd if="/dev/input/${event##*/}" of=/tmp/event bs=24 count=1 2>/dev/null
hexdump -s 16 -e '1/2 "%d " 1/2 "%d " 1/4 "%d\\n"' /tmp/event
grep -c 'ACPI:Ged' /proc/interrupts
cat /sys/devices/system/clocksource/clocksource0/current_clocksource
dmesg | grep -ciE 'soft lockup|rcu.*stall|hung task|clocksource.*unstable|ACPI (BIOS )?Error'
exit 0
"""


def test_power_button_and_pause(amd_stock):
    """testudo stop in the host arrives as a key press in the guest, which then shuts down; a pause goes unnoticed."""
    amd_stock.check(f"rm -f /tmp/stopped; {STOP}")
    boot = amd_stock.boot(BUTTON, args=["--name", "debian"], append="quiet", timeout=240)
    assert boot.status == 0, boot
    pressed, interrupts, clock, complaints = boot.output.splitlines()
    assert (pressed, interrupts, clock, complaints) == ("1 116 1", "1", "kvm-clock", "0"), boot
    # the command hears of the end at the same time as the test
    amd_stock.check("until grep -qs '^stop: ' /tmp/stopped; do sleep 0.1; done", 60)
    assert amd_stock.check("cat /tmp/stopped") == "stop: 0\n"
    listed = amd_stock.check("cat /tmp/listed").splitlines()
    assert listed[1].split()[0] == "debian" and listed[1].split()[2:4] == ["running", "1"], listed
    assert "state       paused" in amd_stock.check("cat /tmp/paused")
    assert amd_stock.check("ls -A /run/testudo") == ".lock\n"
