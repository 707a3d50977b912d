"""Files of another kind than the option wants: each is told by name, with what to do, and is not touched."""

import os
import pathlib
import signal
import socket

import pytest

import harness
import moving
from harness import BAD_INPUT, OFF

SECTOR = harness.SECTOR
MIB = 1 << 20
POLICY = harness.ROOT / "policy" / "default.yaml"
FACTS = harness.HOSTS / "epyc-rome.json"
TEMPLATE = b'{"cpuid_modifiers": [], "msr_modifiers": []}'


def image(head=b"", at=0, tail=b"", size=MIB):
    """A file with @head at @at and @tail in its last 512 bytes."""
    data = bytearray(size)
    data[at:at + len(head)] = head
    if tail:
        data[size - SECTOR:size - SECTOR + len(tail)] = tail
    return bytes(data)


def bzimage():
    return image(bytes(510) + b"\x55\xaa\xeb\x66HdrS\x0f\x02")


# file, what it is called as a disk, what is to be done with it
FORMATS = {
    "qcow2": (image(b"QFI\xfb\0\0\0\3"), "qcow2", "qemu-img convert -f qcow2 -O raw"),
    "qcow2 of an odd size": (image(b"QFI\xfb\0\0\0\3", size=196616), "qcow2", "qemu-img convert -f qcow2 -O raw"),
    "vmdk": (image(b"KDMV\1"), "vmdk", "qemu-img convert -f vmdk"),
    "vmdk of ESX": (image(b"COWD"), "vmdk", "qemu-img convert -f vmdk"),
    "vmdk description": (b"# Disk DescriptorFile\nversion=1\n", "vmdk", "qemu-img convert -f vmdk"),
    "vdi": (image(b"\x7f\x10\xda\xbe", at=64), "vdi", "qemu-img convert -f vdi"),
    "vhd": (image(b"conectix\0\0\0\2"), "vhd", "qemu-img convert -f vpc"),
    "vhd, fixed": (image(tail=b"conectix\0\0\0\2"), "vhd", "qemu-img convert -f vpc"),
    "vhdx": (image(b"vhdxfile"), "vhdx", "qemu-img convert -f vhdx"),
    "qed": (image(b"QED\0"), "qed", "qemu-img convert -f qed"),
    "parallels": (image(b"WithouFreSpacExt"), "Parallels", "qemu-img convert -f parallels"),
    "gzip": (image(b"\x1f\x8b\x08"), "gzip", "gzip -d"),
    "xz": (image(b"\xfd7zXZ\0"), "xz", "xz -d"),
    "saved guest": (image(b"TSTUDOMG"), "testudo save", "--incoming file:"),
    "kernel": (bzimage(), "Linux kernel", "-k"),
    "ELF": (harness.GUEST.read_bytes(), "ELF", "-k"),
    "initrd": (image(b"070701"), "initrd", "-i"),
}


@pytest.fixture
def put(work):
    def write(data, name="x"):
        path = pathlib.Path(work, name)
        path.write_bytes(data)
        return path

    return write


@pytest.mark.nokvm
@pytest.mark.parametrize("more", ["", ",ro", ",direct"])
@pytest.mark.parametrize("name", FORMATS)
def test_disk(put, work, name, more):
    data, what, cure = FORMATS[name]
    path = put(data)
    r = harness.run_raw(["run", "-k", harness.GUEST, "-d", f"{path}{more}"], work)
    r.expect_error(BAD_INPUT, path, what, cure, ",format=raw")
    assert path.read_bytes() == data


@pytest.mark.nokvm
def test_disk_of_a_guest_to_come(put, work):
    """The destination of a migration opens its disks before the guest is there."""
    path = put(FORMATS["qcow2"][0])
    for uri in (f"unix:{work}/mig", f"file:{put(image(b'TSTUDOMG'), 'snap')}"):
        harness.run_raw(["run", "--incoming", uri, "-d", path], work).expect_error(BAD_INPUT, path, "qcow2")


@pytest.mark.nokvm
@pytest.mark.parametrize("word", ["format=qcow2", "format=", "format=RAW"])
def test_no_other_format(put, work, word):
    r = harness.run_raw(["run", "-k", harness.GUEST, "-d", f"{put(image())},{word}"], work)
    r.expect_error(harness.USAGE, word, "raw")


def test_insist(put, testudo):
    path = put(FORMATS["qcow2"][0])
    testudo("blk sectors=8 start=8", "-d", f"{path},format=raw").expect(OFF, "done blk")
    assert path.read_bytes()[:8] == b"QFI\xfb\0\0\0\3"
    assert path.read_bytes()[8 * SECTOR:16 * SECTOR] == harness.disk_words(8, 8)


def test_a_guest_writes_a_magic_on_its_own_disk(put, work, testudo):
    """It goes on, over a reset too, and is refused at the next start; a start that insists is not."""
    path = put(image())
    env = {**os.environ, "XDG_RUNTIME_DIR": work}
    with harness.Live(["run", "--name", "again", "-p", "echo", "-k", harness.GUEST, "-d", path], work, env=env) as t:
        t.read_until(b"echo ready\n")
        with open(path, "r+b") as f:
            f.write(b"QFI\xfb\0\0\0\3")
        t.seen = b""
        with moving.qmp.Client(moving.qmp.socket_path(work, "again")) as c:
            c.execute("system_reset")
            t.read_until(b"echo ready\n")
        assert t.end() == -signal.SIGTERM
    testudo("hello", "-d", path).expect_error(BAD_INPUT, path, "qcow2", ",format=raw")
    testudo("hello", "-d", f"{path},format=raw").expect(OFF, "done hello")


@pytest.mark.nokvm
@pytest.mark.parametrize("name", ["qcow2", "vhd, fixed", "gzip", "kernel", "initrd", "text", "nothing"])
def test_saved_guest(put, work, name):
    data, what = {"text": (b"#!/bin/sh\n" * 9, "'#!/bin/s'"), "nothing": (b"", "empty")}.get(name) or FORMATS[name][:2]
    path = put(data)
    r = harness.run_raw(["run", "--incoming", f"file:{path}"], work)
    r.expect_error(BAD_INPUT, f"file:{path}", what, "testudo save")
    if "disk image" in r.err:
        assert "give it with -d" in r.err, r  # a raw one is no saved guest either


@pytest.mark.nokvm
def test_no_file(work):
    """One that is not there, or cannot be opened at all."""
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(f"{work}/s")
        r = harness.run_raw(["run", "--incoming", f"file:{work}/s"], work)
    r.expect_error(BAD_INPUT, "is a socket", "testudo save")
    r = harness.run_raw(["run", "--incoming", f"file:{work}/none"], work)
    r.expect_error(BAD_INPUT, "No such file", "testudo save wrote")


KERNELS = {name: FORMATS[name] for name in ("qcow2", "vhd, fixed", "vmdk description", "gzip", "saved guest", "initrd")}
KERNELS["raw disk"] = (image(b"\x55\xaa", at=510), "disk image", "-d")
KERNELS["ISO"] = (image(b"CD001", at=0x8001), "ISO 9660", "-d")
KERNELS["EFI program"] = (image(b"MZ"), "EFI program", "objcopy")
KERNELS["arm64"] = (image(b"ARM\x64", at=0x38), "arm64", "x86-64")


@pytest.mark.parametrize("name", KERNELS)
def test_kernel(put, work, name):
    data, what, cure = KERNELS[name]
    path = put(data)
    harness.run_raw(["run", "-k", path], work).expect_error(BAD_INPUT, f"kernel {path}", what, cure)


def whole_bzimage():
    """One that is loaded; it ends in a crash, which is not what is looked at."""
    data = bytearray(0x400 + 0x1000)
    for at, value in ((0x1f1, b"\1"), (0x1f4, b"\0\1\0\0"), (0x1fe, b"\x55\xaa\xeb\x6aHdrS\x0f\x02"), (0x211, b"\1"),
                      (0x22c, b"\xff\xff\xff\x7f"), (0x234, b"\1"), (0x236, b"\x7f\0"), (0x238, b"\xff\7\0\0"),
                      (0x258, (1 << 24).to_bytes(8, "little")), (0x260, b"\0\0\x20\0")):
        data[at:at + len(value)] = value
    data[0x600:0x602] = b"\xeb\xfe"
    return bytes(data)


@pytest.mark.parametrize("name", ["qcow2", "vmdk description", "saved guest", "kernel", "ELF"])
def test_initrd(put, work, name):
    data, what, cure = FORMATS[name]
    path, kernel = put(data), put(whole_bzimage(), "kernel")
    harness.run_raw(["run", "-k", kernel, "-i", path], work).expect_error(BAD_INPUT, f"initrd {path}", what, cure)


def test_module_of_a_pvh_kernel(put, testudo):
    """Such a kernel may want anything."""
    testudo("hello", "-i", put(FORMATS["ELF"][0])).expect(OFF, "done hello")


TEXTS = {
    "policy": (POLICY.read_bytes(), "is a policy", "--policy"),
    "facts": (FACTS.read_bytes(), "is a host's facts", "--host"),
    "template": (TEMPLATE, "is a CPU template", "--cpu"),
    "report": (b'{"schema": 3, "testudo": "0"}', "is a mitigation report", "never reads"),
    "binary": (b"\0\1\2 binary", "is no text file", "right file?"),
    "ELF": FORMATS["ELF"],
    "small qcow2": (image(b"QFI\xfb\0\0\0\3", size=4096), "qcow2", "give it with -d"),
    "large qcow2": (image(b"QFI\xfb\0\0\0\3"), "qcow2", "give it with -d"),
    "gzip": FORMATS["gzip"],
    "initrd": FORMATS["initrd"],
}


@pytest.mark.nokvm
@pytest.mark.parametrize("is_a", TEXTS)
@pytest.mark.parametrize("option", ["policy", "facts", "template"])
def test_texts(put, work, option, is_a):
    data, what, cure = TEXTS[is_a]
    path = put(data, "x.json")
    words = {"policy": ["--policy", path, "--host", FACTS], "facts": ["--host", path],
             "template": ["--cpu", path, "--host", FACTS]}[option]
    r = harness.run_raw(["policy", "explain", *words], work)
    if option == is_a:
        assert r.code in (OFF, 4) and r.err == "", r
    else:
        r.expect_error(BAD_INPUT, path, what, cure)
