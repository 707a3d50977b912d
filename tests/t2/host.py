"""An emulated host: a whole machine in QEMU (TCG), with a stock Debian kernel and that kernel's own KVM, in which
unmodified Debian kernels run as nested guests. Boots in seconds and needs no hardware virtualisation.

    host = EmulatedHost("amd-stock", work_dir, testudo="build/testudo")
    status, output = host.run("uname -r")
    boot = host.boot("nproc", cpus=4)
    assert boot.status == 0 and boot.output == "4\\n"

Run as a program it is the last step of tools/demo: a nested guest on this terminal.
"""
import base64
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import emulator  # noqa: E402  (found through the line above, also when this is run as a program)
import files  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent

# What a kind of host is: the QEMU CPU, and the KVM module to load.
Kind = collections.namedtuple("Kind", "cpu module")
KINDS = {
    "amd-stock": Kind("EPYC-Rome,+svm,+npt,+pku", "kvm_amd"),
}
HOST_MODULES = ["virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "tun", "bridge", "vhost_net"]
GUEST_MODULES = ["virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng", "pvpanic_mmio", "msr", "button",
                 "evdev"]
QEMU_FIRMWARE = ["bios-microvm.bin", "linuxboot_dma.bin", "pvh.bin"]


class HostError(Exception):
    """The emulated host itself failed, or a command in it took too long."""


@dataclasses.dataclass
class Boot:
    """One run of the VMM with a nested guest."""
    status: int			# exit status of the VMM
    console: str		# all that the guest printed
    messages: str		# standard error of the VMM
    scripts: list		# (exit status, output) of each time /run.sh ended: one, or more if the guest rebooted

    @property
    def output(self):
        """Output of the guest's script, which must have ended well."""
        assert self.scripts, f"the guest's script never ended\n{self}"
        status, output = self.scripts[-1]
        assert status == 0, f"the guest's script ended with {status}\n{self}"
        return output

    def __str__(self):
        outputs = "".join(f"-- script, status {status}:\n{output}" for status, output in self.scripts)
        return (f"VMM exit status {self.status}\n-- VMM says:\n{self.messages}\n-- console, at its end:\n"
                f"{self.console[-6000:]}\n{outputs}")


# One CPU, and a timer that stays periodic. QEMU 7.2 lost interrupts where nested guests come and go, and ran patched code
# in its old form where there were several CPUs. 10.0 was not seen to do either in fourteen boots of nested guests on two
# CPUs, but one guest of two CPUs stood still for 84 s on a busy machine, which is not explained: so a host that boots
# Linux guests has one, and tests/t2/kvm.py, whose guests are small, has a thread of this machine for each of two.
# no_timer_check: on a machine with much other work no tick comes within the 40 ms that Linux waits for one, and it panics.
STEADY = {False: "nohz=off highres=off no_timer_check",
          True: "tsc=reliable no_timer_check"}  # the CPUs' TSCs are one counter, which Linux believes only if told


def host_command(kind, initrd, stock, disk, append, mem="3G", cpus=1):
    """The part of QEMU's command line that every emulated host has."""
    several = cpus > 1
    return [*emulator.qemu(), "-accel", f"tcg,thread={'multi' if several else 'single'}", "-M", "q35",
            "-cpu", KINDS[kind].cpu, "-smp", cpus, "-m", mem, "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-kernel", stock.vmlinuz, "-initrd", initrd,
            "-append", f"panic=-1 {STEADY[several]} {append}",
            "-drive", f"if=virtio,format=raw,readonly=on,file={disk}"]


def start(command, **options):
    """QEMU dies with the thread that started it, whatever that dies of."""
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *map(str, command)], **options)


def host_initrd(kind, stock, main):
    return files.initrd(stock, [*HOST_MODULES, KINDS[kind].module], HERE / "host-init", {"main": main})


def with_programs(programs, tree):
    """What is to be in /t2: @tree, and @programs in bin/ with the libraries that they load."""
    tree = dict(tree)
    for program in programs:
        tree[f"bin/{pathlib.Path(program).name}"] = program
        tree |= {library.lstrip("/"): library for library in files.libraries(program)}
    return tree


def host_disk(path, programs, tree):
    """The image mounted on /t2."""
    files.ext4_image(path, with_programs(programs, tree))


class EmulatedHost:
    """One emulated host of a @kind of KINDS, up when the constructor returns; close() ends it.
    @work: folder for images and logs; @testudo: the program under test; @with_qemu: take QEMU along, so that
    boot(vmm="qemu") runs the same guest under QEMU's microvm, to compare; @link: one end of a socket pair, which becomes
    the host's network card eth0; @tree: more files for /t2, {path there: path here or bytes}; @terminal: the agent's line
    is a serial port, which can be a person's terminal (shell.py)."""

    pace = 1	# the host's seconds in one of ours, at most
    patience = 5	# times the limits: what is done in time when nothing else runs takes longer on a busy machine
    up_s = 300	# for the host to come up
    mem = "3G"
    cpus = 1

    def __init__(self, kind, work, testudo=None, **options):
        self.kind = kind
        self.work = pathlib.Path(work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.stock = files.Stock()
        self.log = self.work / f"{kind}-console.log"
        self.process = self.port = None
        self._lost = ""
        self._next = 0
        self._boots = 0
        self._bring_up(testudo, **options)

    def _bring_up(self, testudo, with_qemu=False, link=None, tree=None, terminal=False):
        kind = self.kind
        tree = {"guest/vmlinuz": self.stock.vmlinuz,
                "guest/vmlinux": self.stock.vmlinux(),
                "guest/initrd": files.initrd(self.stock, GUEST_MODULES, HERE / "guest-init"), **(tree or {})}
        programs = [testudo] if testudo else []
        for name in ("mke2fs", "e2fsck", "fio"):
            programs.append(files.tool(name))
        if with_qemu:
            programs.append(files.tool("qemu-system-x86_64"))
            for name in QEMU_FIRMWARE:
                folder = next(path for path in ("/usr/share/qemu", "/usr/share/seabios", "/usr/share/qboot")
                              if os.path.exists(f"{path}/{name}"))
                tree[f"usr/share/qemu/{name}"] = f"{folder}/{name}"
        host_disk(self.work / f"{kind}.ext4", programs, tree)
        files.ext4_image(self.work / f"{kind}-scratch.ext4", {}, spare_mib=1024)
        initrd = self.work / f"{kind}.initrd"
        initrd.write_bytes(host_initrd(kind, self.stock, (HERE / "host-agent").read_bytes()))
        self._start(initrd, link, terminal)

    def _start(self, initrd, link, terminal=False):
        self.port, theirs = socket.socketpair()
        command = host_command(self.kind, initrd, self.stock, self.work / f"{self.kind}.ext4",
                               f"console=ttyS0{' agent=/dev/ttyS1' if terminal else ''}", self.mem, self.cpus) + [
            "-chardev", f"file,id=console,path={self.log}", "-serial", "chardev:console",
            "-drive", f"if=virtio,format=raw,cache=unsafe,discard=unmap,file={self.work / self.kind}-scratch.ext4",
            "-chardev", f"socket,id=agent,fd={theirs.fileno()}",
            *(["-serial", "chardev:agent"] if terminal else
              ["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=agent"])]
        fds = [theirs.fileno()]
        if link:
            fds.append(link.fileno())
            mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in os.urandom(3))
            command += ["-netdev", f"socket,id=link,fd={link.fileno()}",
                        "-device", f"virtio-net-pci,netdev=link,romfile=,mac={mac}"]
        errors = self.work / f"{self.kind}-qemu.log"
        with theirs, open(errors, "wb") as stderr:
            self.process = start(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, pass_fds=fds)
        self._await_agent(errors)

    def _await_agent(self, errors):
        """@errors: the file with what the emulator itself says."""
        try:
            self._deadline = time.monotonic() + self.up_s
            ready = self._line()
        except HostError as error:
            self.close()
            raise HostError(f"the emulated host {self.kind} did not come up: {error}\n"
                            f"{errors.read_text(errors='replace')[-3000:]}{self.console()[-3000:]}") from None
        assert ready.split()[0] == "ready", ready

    def close(self):
        if self.port:
            self.port.close()
        if self.process:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def console(self):
        """All that the host's kernel has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # The agent's port

    def _receive(self, count):
        self.port.settimeout(max(self._deadline - time.monotonic(), 0.01))
        try:
            data = self.port.recv(count)
        except TimeoutError:
            raise HostError("no answer in time") from None
        if not data:
            raise HostError("the emulator has ended")
        return data

    def _line(self):
        line = b""
        while not line.endswith(b"\n"):
            line += self._receive(1)
        return line.decode()

    def _request(self, verb, data, arg, seconds):
        if self._lost:
            raise HostError(f"the emulated host was lost before: {self._lost}")
        self._next += 1
        # The agent itself cuts a command short; the grace is for an agent that is gone.
        self._deadline = time.monotonic() + seconds + 30
        self.port.settimeout(seconds + 30)
        output = bytearray()
        try:
            self.port.sendall(f"{verb} {self._next} {len(data)} {arg}\n".encode() + data)
            ident, status, length = self._line().split()
            assert int(ident) == self._next, f"answer to request {ident}, not {self._next}"
            while len(output) < int(length):
                output += self._receive(int(length) - len(output))
        except (HostError, OSError) as error:
            # Nobody knows what it would answer next: one test fails with the time-out, the others at once.
            self._lost = f"{error or 'no answer in time'}\n{self.console()[-3000:]}"
            raise HostError(f"the emulated host is lost: {self._lost}") from None
        return status, bytes(output)

    def run(self, command, timeout=30, binary=False):
        """Runs a shell command; (exit status, its output with standard error). Background jobs go on after it."""
        limit = timeout * self.patience
        status, output = self._request("run", command.encode(), limit * self.pace, limit)
        if not binary:
            output = output.decode(errors="replace")
        if status == "timeout":
            raise HostError(f"not done after {limit} s: {command}\n{output}")
        return int(status), output

    def check(self, command, timeout=30, binary=False):
        """The output of a command that must succeed."""
        status, output = self.run(command, timeout, binary)
        if status != 0:
            raise HostError(f"status {status} from: {command}\n{output}")
        return output

    def json(self, command, timeout=30, status=0):
        """What the last JSON document says that @command writes to standard output. Warnings go to standard error."""
        ended, text = self.run(f"({command}) 2>/tmp/stderr", timeout)
        if ended != status:
            raise HostError(f"status {ended} from: {command}\n{text}\n{self.check('cat /tmp/stderr')}")
        document, text = None, text.lstrip()
        while text:
            document, end = json.JSONDecoder().raw_decode(text)
            text = text[end:].lstrip()
        return document

    def put(self, data, path):
        """Writes the bytes @data to the host's file @path (no blanks in it)."""
        status, _ = self._request("put", data, path, 60)
        if status != "0":
            raise HostError(f"cannot write {path} in the host")

    def get(self, path):
        return self.check(f"cat {shlex.quote(path)}", 60, binary=True)

    # Nested guests

    def command(self, *, cpus=1, mem="256M", disks=(), append="", kernel="/t2/guest/vmlinuz",
                initrd="/t2/guest/initrd", args=(), vmm="testudo"):
        """The shell command that boots a nested guest. @disks: values of testudo's -d."""
        line = f"panic=-1 {append}".strip()
        if vmm == "testudo":
            words = ["testudo", "run", "-k", kernel, "-i", initrd, "-p", line, "-c", cpus, "-m", mem]
            for disk in disks:
                words += ["-d", disk]
            return shlex.join(map(str, [*words, *args]))
        words = ["qemu-system-x86_64", "-L", "/usr/share/qemu", "-M", "microvm,acpi=on,rtc=on", "-accel", "kvm", "-cpu", "host", "-smp", cpus,
                 "-m", mem, "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
                 "-kernel", kernel, "-initrd", initrd, "-append", f"console=ttyS0 {line}",
                 "-device", "virtio-rng-device"]
        for number, disk in enumerate(disks):
            path, *options = disk.split(",")
            serial = next((option for option in options if option.startswith("serial=")), f"serial=disk{number}")
            words += ["-drive", f"if=none,id=d{number},format=raw,discard=unmap,file={path}"
                                f"{',readonly=on' if 'ro' in options else ''}",
                      "-device", f"virtio-blk-device,drive=d{number},{serial}"]
        if "--no-reboot" in args:
            words.append("-no-reboot")
        return shlex.join(map(str, words))

    def boot(self, script, *, typing=(), programs=(), timeout=60, **guest):
        """Boots a nested guest that runs @script (as /run.sh) and powers off; waits for the VMM's end.
        @typing: (text to wait for on the console, line to type then) pairs; @programs: names or paths of this
        machine's programs to take along in /opt (busybox's shell knows only its own by name). The rest as in
        command()."""
        self._boots += 1
        name = f"/tmp/boot{self._boots}"
        tree = {"run.sh": script.encode()}
        for program in map(files.tool, programs):
            tree[f"opt/{os.path.basename(program)}"] = pathlib.Path(program).read_bytes()
            for path in files.libraries(program):
                tree[path.lstrip("/")] = pathlib.Path(path).read_bytes()
        self.put(files.cpio(tree), f"{name}.cpio")
        # The kernel unpacks archives that follow each other, each on a four-byte boundary.
        self.check(f"cat {guest.pop('initrd', '/t2/guest/initrd')} {name}.cpio >{name}.initrd")
        guest.setdefault("vmm", os.environ.get("T2_VMM", "testudo"))
        command = self.command(initrd=f"{name}.initrd", **guest)
        feed = ""
        for wait, text in typing:
            feed += (f"until grep -q {shlex.quote(wait)} {name}.out; do sleep 0.1; done\n"
                     f"printf '%s\\n' {shlex.quote(text)} >&4\n")
        try:
            status, _ = self.run(f"mkfifo {name}.in; exec 4<>{name}.in; : >{name}.out\n"
                                 f"({feed}:) 2>/dev/null & typist=$!\n"
                                 f"{command} <{name}.in >{name}.out 2>{name}.err 4>&-\n"
                                 f"status=$?; kill $typist 2>/dev/null; exit $status", timeout)
        except HostError as error:
            raise HostError(f"{error}\n{self.get(name + '.err').decode(errors='replace')}\n"
                            f"{self.get(name + '.out').decode(errors='replace')[-6000:]}") from None
        console = self.get(f"{name}.out").decode(errors="replace").replace("\r", "")
        messages = self.get(f"{name}.err").decode(errors="replace")
        self.check(f"rm -f {name}.*")
        (self.work / f"{self.kind}-boot{self._boots}.log").write_text(f"{command}\n{messages}\n{console}")
        return Boot(status, console, messages, parse_scripts(console))


def parse_scripts(console):
    """What guest-init prints when /run.sh has ended: [(exit status, output)]."""
    return [(int(status), base64.b64decode(text).decode(errors="replace")) for status, text in
            re.findall(r"^@@@begin (\d+)\n([A-Za-z0-9+/=\n]*?)@@@end$", console, re.MULTILINE)]
