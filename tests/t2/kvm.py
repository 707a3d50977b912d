"""Runs pytest in an emulated machine that has a KVM: the tests of tests/e2e, where this machine has no /dev/kvm.

    kvm.py [--build DIR] [--report FILE] [--seconds N] [NAME=VALUE]... PYTEST-ARGUMENT...

The machine runs this machine's Debian, made by mmdebstrap of what PACKAGES names, with Debian's kernel and its own KVM on
an emulated AMD CPU (host.py), and a copy of this checkout and of the build folder under the same paths. Exit status and
output are pytest's.
"""
import argparse
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import files
import host

TOP = files.TOP
KIND = "amd-stock"
SUITE = platform.freedesktop_os_release()["VERSION_CODENAME"]
MODULES = [*host.HOST_MODULES, "overlay"]
# What the tests start, and the libraries of the program and of its sanitized build. The same on Debian 12 and 13.
PACKAGES = ["python3-pytest", "python3-pytest-xdist", "iproute2", "device-tree-compiler", "file", "git", "kmod", "bash",
            "liburing2", "libseccomp2", "libyaml-0-2", "libjansson4", "libfdt1", "libcmocka0", "libasan8",
            "libubsan1", "binutils", "acpica-tools", "util-linux"]
SPARE_MIB = 4096  # on the machine's disk, for what tests write


def debian(path):
    """Fills the folder @path with the image of the machine's root file system."""
    with tempfile.TemporaryDirectory(prefix="testudo-", dir=path) as work:
        tree = pathlib.Path(work) / "tree"
        made = subprocess.run([files.tool("mmdebstrap"), "--quiet", "--variant=minbase", "--components=main",
                               f"--include={','.join(PACKAGES)}", SUITE, tree], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False)
        if made.returncode != 0:
            why = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise files.FilesError(f"cannot make a Debian {SUITE} for the emulated machine: {why}")
        for name in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"):
            shutil.rmtree(tree / name, ignore_errors=True)
        (tree / "etc/hosts").write_text("127.0.0.1 localhost\n")
        files.ext4_of(path / "root.ext4", tree, SPARE_MIB)


def checkout(path, build):
    """An image of the files of this checkout and of the folder @build, less what only a compiler reads."""
    with tempfile.TemporaryDirectory(prefix="testudo-", dir=path.parent) as tree:
        words = ["tar", "-c", "--exclude=*.o", "--exclude=*.a.p", "--exclude=*.ext4", "--exclude-vcs", "--exclude=__pycache__"]
        for entry in sorted(TOP.iterdir()):
            if not entry.name.startswith("build") and entry.name != ".git":
                words.append(entry.name)
        folder = build.relative_to(TOP)
        words += [f"--exclude={folder}/{name}" for name in ("lab", "t2")]  # logs of tests that may be running
        words.append(str(folder))
        with subprocess.Popen(words, cwd=TOP, stdout=subprocess.PIPE) as pack:
            subprocess.run(["tar", "-x", "-C", tree], stdin=pack.stdout, check=True)
        files.ext4_of(path, tree, 8)


class Machine(host.EmulatedHost):
    """It is up, with the checkout and the build folder in place, when the constructor returns. @work: as a host's."""

    up_s = 300  # on a busy machine
    mem = "6G"
    cpus = 2

    def __init__(self, work, build):
        self.build = build
        super().__init__(KIND, work)

    def _bring_up(self, testudo):
        root = files.cache_folder(files.recipe_name("kvm-machine", debian, SUITE, *PACKAGES), debian) / "root.ext4"
        checkout(self.work / f"{self.kind}.ext4", self.build)
        subprocess.run(["cp", "--sparse=always", root, self.work / f"{self.kind}-scratch.ext4"], check=True)
        initrd = self.work / f"{self.kind}.initrd"
        initrd.write_bytes(files.initrd(self.stock, [*MODULES, host.KINDS[self.kind].module], host.HERE / "host-init",
                                        {"main": (host.HERE / "host-agent").read_bytes()}))
        self._start(initrd, None)
        self.check(f"""set -e
for dir in dev dev/pts dev/shm proc sys; do mount --bind /$dir /scratch/$dir; done
mount -t tmpfs tmpfs /scratch/run
mkdir -p /layer /scratch{TOP}
mount -t tmpfs tmpfs /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/t2,upperdir=/layer/upper,workdir=/layer/work overlay /scratch{TOP}""", 60)

    def debian(self, command, seconds):
        """Runs a command in the machine's Debian, in the checkout's folder; as run(). Its output goes to the machine's
        console, too: there is to be seen how far it is."""
        variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}
        words = ["chroot", "/scratch", "/usr/bin/env", "-i", *(f"{name}={value}" for name, value in variables.items()),
                 "/bin/bash", "-o", "pipefail", "-c", f"cd {shlex.quote(str(TOP))} && {command} 2>&1 | tee /dev/console"]
        return self.run(shlex.join(words), seconds)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, default=TOP / "build")
    parser.add_argument("--report", type=pathlib.Path, help="where pytest's --junitxml goes, on this machine")
    parser.add_argument("--seconds", type=int, default=3600)
    args, words = parser.parse_known_args()
    build = args.build.resolve()
    variables = [f"TESTUDO_BUILD={build}", *(f"{name}={value}" for name, value in os.environ.items()
                                            if name.endswith("SAN_OPTIONS"))]
    while words and re.match(r"[A-Z_]+=", words[0]):
        variables.append(words.pop(0))
    pytest = ["env", *variables, "python3", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-n",
              str(Machine.cpus), "--junitxml=/tmp/report.xml", *words]
    try:
        with tempfile.TemporaryDirectory(prefix="testudo-") as work, Machine(work, build) as machine:
            status, output = machine.debian(shlex.join(pytest), args.seconds)
            print(output, end="")
            if args.report and status in (0, 1):
                args.report.write_bytes(machine.get("/scratch/tmp/report.xml"))
            return status
    except (files.FilesError, host.HostError) as error:
        print(f"kvm.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
