"""The last step of tools/demo: Debian's kernel under testudo on this terminal, if need be in an emulated host.
Without a terminal the guest greets and powers off."""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import files
import host

KIND = "amd-stock"
MODULES = ["virtio_mmio", "virtio_blk", "virtio_rng"]
LIMIT_S = 180	# for a guest that nobody watches


def guest_words(kernel, initrd, terminal):
    return ["run", "-k", kernel, "-i", initrd, "-c", "2", "-m", "256M",
            "-p", f"quiet loglevel=3 demo={'shell' if terminal else 'greet'}"]


def on_this_machine(testudo, stock, initrd, terminal):
    return subprocess.run([testudo, *map(str, guest_words(stock.vmlinuz, initrd, terminal))], check=False,
                          stdin=None if terminal else subprocess.DEVNULL,
                          timeout=None if terminal else LIMIT_S).returncode


def in_emulated_host(testudo, stock, initrd, terminal):
    # ttyS0 is the user's terminal, testudo's alone; what the host has to say goes to ttyS1, a log.
    words = " ".join(f"'{word}'" for word in guest_words("/t2/guest/vmlinuz", "/t2/guest/initrd", terminal))
    main = (f"setsid sh -c 'exec testudo \"$@\" </dev/ttyS0 >/dev/ttyS0 2>&1' sh {words}\n"
            'echo; echo "status $?"; stty -echo </dev/console\n')
    with tempfile.TemporaryDirectory(prefix="testudo-") as work:
        work = pathlib.Path(work)
        disk, host_initrd, log, errors = (work / name for name in ("disk", "initrd", "log", "errors"))
        host.host_disk(disk, [testudo], {"guest/vmlinuz": stock.vmlinuz, "guest/initrd": initrd})
        host_initrd.write_bytes(host.host_initrd(KIND, stock, main.encode()))
        command = host.host_command(KIND, host_initrd, stock, disk, "console=ttyS1") + [
            "-chardev", "stdio,id=terminal,signal=off", "-serial", "chardev:terminal",
            "-chardev", f"file,id=log,path={log}", "-serial", "chardev:log"]
        with open(errors, "wb") as stderr:
            qemu = host.start(command, stdin=None if terminal else subprocess.DEVNULL, stderr=stderr)
            try:
                qemu.wait(None if terminal else LIMIT_S)
            finally:
                qemu.kill()
                qemu.wait()
        said = log.read_text(errors="replace") if log.exists() else ""
        status = re.search(r"^status (\d+)\r?$", said, re.MULTILINE)
        if not status:
            raise files.FilesError(f"the emulated host failed; it said last:\n{errors.read_text()}{said[-2000:]}")
        return int(status.group(1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--testudo", required=True)
    parser.add_argument("--emulated", action="store_true")
    args = parser.parse_args()
    terminal = os.isatty(0) and os.isatty(1)
    try:
        stock = files.Stock()
        initrd = files.cache_file(files.initrd(stock, MODULES, host.HERE / "demo-init"), "initrd")
        run = in_emulated_host if args.emulated else on_this_machine
        return run(args.testudo, stock, initrd, terminal)
    except files.FilesError as error:
        print(f"demo: {error}", file=sys.stderr)
    except subprocess.TimeoutExpired:
        print(f"demo: the guest did not end within {LIMIT_S} s", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
