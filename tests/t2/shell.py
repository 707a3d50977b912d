"""A person in an emulated host: a shell on this terminal, with a greeting that says what there is.

The host's agent gives its line, a serial port, to a shell, and takes it back when that ends: what is typed goes there byte
by byte, Ctrl-C as well, and the line's own terminal makes signals of it."""
import contextlib
import os
import secrets
import select
import signal
import sys
import termios
import tty

import files
import host

LEAVE = b"\x1d"  # Ctrl-], as telnet has it
MODULES = ["virtio_mmio", "virtio_blk", "virtio_rng"]
DEMO = "guest/initrd-demo"

# What may be in a host, and what it is for.
PLACES = [
    ("/t2/bin/testudo", "the program under test, in PATH"),
    ("/t2/guest/vmlinuz", "Debian's kernel, unmodified, as bzImage"),
    ("/t2/guest/vmlinux", "the same as a PVH ELF file"),
    ("/t2/guest/initrd-demo", "an initrd with a shell, for demo=shell on the kernel's command line"),
    ("/t2/guest/initrd", "an initrd that runs /run.sh, which a test adds to it"),
    ("/t2/guest/initrd-kvm", "the same with KVM, for guests of the guest"),
    ("/t2/guest/guest.elf", "the test guest: testudo run -k /t2/guest/guest.elf -p hello"),
    ("/t2/guest/l2", "a guest for a guest with KVM"),
    ("/t2/guest/guest-report", "the program that reports in guests whose kernel cannot"),
    ("/t2/bin/abi", "the test of KVM_CAP_FORCE_SPEC_CTRL"),
    ("/t2/lib/kvm_shim.so", "a library that makes a KVM another: LD_PRELOAD, KVM_SHIM"),
    ("/scratch", "room to write; it goes with the host"),
    ("/dev/sda", "the disk that goes from host to host: mount it"),
]


def demo_initrd(stock):
    return files.initrd(stock, MODULES, host.HERE / "demo-init")


def greeting(kind):
    """Shell commands that greet; what is not in this host is not spoken of."""
    lines = [f"echo; echo \"This is the emulated host {kind}: Linux $(uname -r), KVM as $(cd /sys/module && echo kvm_*)\""]
    for path, what in PLACES:
        lines.append(f"[ ! -e {path} ] || printf '  %-24s %s\\n' {path} {what!r}")
    lines += ["echo 'A guest with a shell:  testudo run -k /t2/guest/vmlinuz -i /t2/guest/initrd-demo -p \"quiet demo=shell\"'",
              "echo 'To leave: exit or Ctrl-D; Ctrl-] at any time. Nothing in this host stays.'", "echo"]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def raw_terminal():
    """The terminal as a plain line of bytes, and afterwards as it was, also when this is to end."""
    def end(number, _):
        sys.exit(128 + number)

    before = termios.tcgetattr(0)
    old = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        for number, handler in old.items():
            signal.signal(number, handler)


def write(data):
    while data:
        data = data[os.write(1, data):]


def pass_on(port, mark):
    """Between this terminal and the host's line until @mark comes. Return: what stands behind it on its line; None: the
    user left"""
    seen = b""
    while True:
        ready = select.select([0, port], [], [])[0]
        if 0 in ready:
            typed = os.read(0, 4096)
            if not typed or LEAVE in typed:
                return None
            port.sendall(typed)
        if port not in ready:
            continue
        more = port.recv(65536)
        if not more:
            raise host.HostError("the emulator has ended")
        seen += more
        text, found, rest = seen.partition(mark)
        if found:
            write(text)
            while b"\n" not in rest:
                rest += port.recv(4096)
            return rest.partition(b"\n")[0]
        keep = next((n for n in range(min(len(mark) - 1, len(seen)), 0, -1) if mark.startswith(seen[-n:])), 0)
        write(seen[:len(seen) - keep])
        seen = seen[len(seen) - keep:]


def converse(machine):
    """A shell in @machine on this terminal. Return: its exit status"""
    size = os.get_terminal_size(0)
    mark = f"@@@{secrets.token_hex(8)} "
    script = greeting(machine.kind).encode()
    term = os.environ.get("TERM", "vt100")
    machine.port.settimeout(None)
    with raw_terminal():
        machine.port.sendall(f"shell 0 {len(script)} {size.lines or 24} {size.columns or 80} {term} {mark}\n".encode() + script)
        status = pass_on(machine.port, mark.encode())
    print()
    return int(status) if status else 0
