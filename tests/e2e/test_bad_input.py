"""
Every wrong option or file ends with 2 or 3 and one line on standard error that names what is wrong;
no guest starts, nothing hangs, nothing is left.
"""

import os
import pathlib
import socket
import struct

import pytest

import harness
from harness import BAD_INPUT, OFF, USAGE, VMM_ERROR

GUEST = str(harness.GUEST)

BAD_OPTIONS = [
    # words after "run", what the message has to name
    ([], "kernel"),
    (["-k"], "-k"),
    (["--kernel"], "--kernel"),
    (["--nonsense"], "--nonsense"),
    (["-Z"], "-Z"),
    (["-k", GUEST, GUEST], "two kernels"),
    ([GUEST, "other"], "two kernels"),
    (["-c", "0", GUEST], "-c"),
    (["-c", "256", GUEST], "-c"),
    (["-c", "-1", GUEST], "-c"),
    (["-c", "two", GUEST], "two"),
    (["-c", "", GUEST], "-c"),
    (["-c", "1.5", GUEST], "1.5"),
    (["-c", "99999999999999999999", GUEST], "-c"),
    (["-m", "0", GUEST], "-m"),
    (["-m", "", GUEST], "-m"),
    (["-m", "-5", GUEST], "-5"),
    (["-m", "1X", GUEST], "1X"),
    (["-m", "1GB", GUEST], "1GB"),
    (["-m", "64 M", GUEST], "64 M"),
    (["-m", "16E", GUEST], "16E"),
    (["-m", "99999999999999999999999", GUEST], "-m"),
    (["-m", "1000000P", GUEST], "-m"),
    (["-m", "64P", GUEST], "-m"),
    (["-m", "1M", GUEST], "-m"),
    (["-m", "65537B", GUEST], "-m"),
    (["--hugepages", "-m", "3M", GUEST], "--hugepages"),
    (["--no-reboot=1", GUEST], "--no-reboot"),
    (["-d", "", GUEST], "-d"),
    (["-d", ",ro", GUEST], "-d"),
    (["-d", "disk,rw", GUEST], "rw"),
    (["-d", "disk,ro,", GUEST], "-d"),
    (["-d", "disk,serial=" + "x" * 21, GUEST], "serial"),
    (["-d", "disk,direct=1", GUEST], "direct=1"),
    (["-d", "disk"] * 19 + [GUEST], "disks"),
    (["-d", "disk"] * 30 + [GUEST], "disks"),
    (["-n", "", GUEST], "-n"),
    (["-n", "tap=", GUEST], "tap="),
    (["-n", "tap=a,fd=3", GUEST], "-n"),
    (["-n", "fd=1", GUEST], "fd: '1'"),
    (["-n", "tap=a,mac=ff:ff:ff:ff:ff:ff", GUEST], "ff:ff:ff:ff:ff:ff"),
    (["-n", "tap=a,vhost=maybe", GUEST], "vhost=maybe"),
    (["-n", "tap=a,vhostfd=1", GUEST], "vhostfd"),
    (["-n", "tap=a"] * 9 + [GUEST], "network devices"),
    (["--serial", "tcp:1", GUEST], "tcp:1"),
    (["--incoming", "unix:"], "the path is missing"),
    (["--incoming", "file:"], "the path is missing"),
]


@pytest.mark.nokvm
@pytest.mark.parametrize("words,name", BAD_OPTIONS, ids=lambda v: " ".join(v)[:50] or "none"
                         if isinstance(v, list) else None)
def test_bad_option(work, words, name):
    harness.make_disk(os.path.join(work, "disk"))
    if depends_on_host(words) and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("what fits depends on the CPU")
    r = harness.run_raw(["run", *words], work)
    r.expect_error(USAGE, name)
    assert os.listdir(work) == ["disk"]


def depends_on_host(words):
    return "-m" in words or "--serial" in words


@pytest.mark.nokvm
@pytest.mark.parametrize("words", [[], ["nonsense"], ["--nonsense"], ["ru"]], ids=" ".join)
def test_bad_command(work, words):
    r = harness.run_raw(words, work)
    assert r.code == USAGE, r
    assert all(line.startswith(("testudo: ", "Usage: ", " ")) or not line for line in r.log), r


@pytest.mark.nokvm
@pytest.mark.parametrize("words", [["--help"], ["help"], ["run", "--help"], ["run", "-h"],
                                   ["help", "run"]], ids=" ".join)
def test_help(work, words):
    r = harness.run_raw(words, work)
    assert r.code == OFF and r.err == "" and r.out.startswith("Usage: testudo"), r


@pytest.mark.nokvm
def test_help_names_every_option_and_exit_code(work):
    text = harness.run_raw(["run", "--help"], work).out
    for word in ("-k", "-i", "-p", "-c", "-m", "-d", "-n", "--serial", "--no-reboot", "--hugepages",
                 "--prealloc", "--no-rng", "-v", "--help"):
        assert word in text
    for code in range(4):
        assert f"\n  {code} " in text
    for code in (32, 33, 34):
        assert f"\n  {code} " in text


@pytest.mark.nokvm
def test_version(work):
    r = harness.run_raw(["version"], work)
    assert r.code == OFF and r.err == "" and r.out.startswith("testudo "), r


# ---- files ----

def elf(**change):
    """The test guest with some fields of its ELF header changed."""
    data = bytearray(harness.GUEST.read_bytes())
    fields = {"magic": (0, "4s"), "class": (4, "B"), "type": (16, "<H"), "machine": (18, "<H"),
              "phoff": (32, "<Q"), "phentsize": (54, "<H"), "phnum": (56, "<H")}
    segment = {"p_type": (0, "<I"), "p_offset": (8, "<Q"), "p_paddr": (24, "<Q"),
               "p_filesz": (32, "<Q"), "p_memsz": (40, "<Q")}
    for name, value in change.items():
        if name in fields:
            at, form = fields[name]
        else:
            at, form = segment[name]
            at += struct.unpack_from("<Q", data, 32)[0]
        struct.pack_into(form, data, at, value)
    return bytes(data)


def elf_without_note():
    return harness.GUEST.read_bytes().replace(b"Xen\0", b"Xyz\0")


BAD_KERNELS = {
    "empty": b"",
    "one byte": b"x",
    "text": b"#!/bin/sh\nexit 0\n" * 1000,
    "zeroes": bytes(1 << 20),
    "ELF header only": elf()[:64],
    "half of an ELF header": elf()[:30],
    "truncated ELF": elf()[:5000],
    "32-bit ELF": elf(**{"class": 1}),
    "ELF for another machine": elf(machine=183),
    "ELF without note": elf_without_note(),
    "program headers outside": elf(phoff=1 << 40),
    "program headers wrap": elf(phoff=(1 << 64) - 8),
    "program headers of wrong size": elf(phentsize=1),
    "65535 program headers": elf(phnum=65535),
    "no program header": elf(phnum=0),
    "segment outside of the file": elf(p_offset=1 << 40),
    "segment wraps": elf(p_offset=(1 << 64) - 1),
    "segment above memory": elf(p_paddr=1 << 40),
    "segment below 1 MiB": elf(p_paddr=0),
    "segment in the hole": elf(p_paddr=0xd0000000),
    "segment wraps memory": elf(p_paddr=(1 << 64) - 4096),
    "segment larger in file than in memory": elf(p_memsz=1),
    "segment larger than memory": elf(p_memsz=1 << 50),
    "bzImage header only": bytes(510) + b"\x55\xaa\xeb\x66HdrS\x0f\x02" + bytes(1000),
    "bzImage without 64-bit entry": bytes(510) + b"\x55\xaa\xeb\x66HdrS\x00\x02" + bytes(100000),
}


@pytest.mark.parametrize("data", BAD_KERNELS.values(), ids=BAD_KERNELS.keys())
def test_bad_kernel(work, data):
    path = os.path.join(work, "kernel")
    with open(path, "wb") as f:
        f.write(data)
    harness.run_raw(["run", path], work).expect_error(BAD_INPUT, path)


@pytest.mark.nokvm
@pytest.mark.parametrize("option", ["-k", "-i", "-d"])
@pytest.mark.parametrize("what", ["missing", "directory", "socket", "device", "under a file", "long"])
def test_bad_file(work, option, what):
    path = {"missing": os.path.join(work, "none"), "directory": work, "device": "/dev/null",
            "socket": os.path.join(work, "socket"), "under a file": GUEST + "/x",
            "long": "/" + "x" * 5000}[what]
    if what == "socket":  # FIFOs are waited for: test_file_kinds.py
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
    words = ["run", option, path] + ([] if option == "-k" else ["-k", GUEST])
    r = harness.run_raw(words, work).expect_error(BAD_INPUT)
    assert path[:100] in r.err, r


def test_unreadable_files(work):
    for option in ("-k", "-i", "-d"):
        path = os.path.join(work, "secret")
        harness.make_disk(path, 4096)
        os.chmod(path, 0)
        os.chmod(work, 0o755)
        words = ["run", option, path] + ([] if option == "-k" else ["-k", GUEST])
        r = harness.run_raw(words, "/", prefix=drop_root(), binary=public_binary(work))
        r.expect_error(BAD_INPUT, path)


def drop_root():
    if os.geteuid() != 0:
        pytest.skip("wants root, to become somebody with fewer rights")
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def public_binary(work):
    """testudo and the guest where anybody may run and read them."""
    path = os.path.join(work, "testudo")
    if not os.path.exists(path):
        with open(path, "wb") as f:
            f.write(harness.TESTUDO.read_bytes())
        os.chmod(path, 0o755)
    return path


def test_command_line_too_long(testudo):
    testudo("hello " + "x" * 5000).expect_error(BAD_INPUT, "command line", GUEST)


def test_initrd_larger_than_memory(testudo, work):
    path = harness.make_disk(os.path.join(work, "initrd"), 100 << 20)
    testudo("hello", "-i", path, "-m", "64M").expect_error(BAD_INPUT, path)


def test_no_room_for_kernel(testudo):
    testudo("hello", "-m", "2M").expect(OFF, "done hello")


# ---- the host ----

@pytest.mark.nokvm
def test_no_permission_for_kvm(work):
    if not os.path.exists("/dev/kvm") or os.stat("/dev/kvm").st_mode & 0o006:
        pytest.skip("anybody may use /dev/kvm, or there is none")
    os.chmod(work, 0o755)
    kernel = os.path.join(work, "kernel")
    with open(kernel, "wb") as f:
        f.write(harness.GUEST.read_bytes())
    os.chmod(kernel, 0o644)
    r = harness.run_raw(["run", kernel], "/", prefix=drop_root(), binary=public_binary(work))
    r.expect_error(VMM_ERROR, "/dev/kvm")
    assert "group" in r.err or "permission" in r.err.lower(), "a remedy"


@pytest.mark.nokvm
def test_no_kvm(work):
    """A /dev without kvm in it"""
    if os.geteuid() != 0:
        pytest.skip("wants root, for a mount namespace")
    r = harness.run_raw(["--mount", "sh", "-c",
                         'mount -t tmpfs none /dev && : >/dev/null && exec "$@"', "sh",
                         harness.TESTUDO, "run", GUEST], work, binary="unshare")
    if "unshare" in r.err or "mount:" in r.err:
        pytest.skip("no mount namespaces here")
    r.expect_error(VMM_ERROR, "/dev/kvm")


def test_no_memory_for_prealloc(testudo):
    r = testudo("hello", "-m", "4T", "--prealloc")
    if r.code == USAGE and "physical address bits" in r.err:
        pytest.skip("this CPU addresses less memory than can be had")
    r.expect_error(VMM_ERROR, "--prealloc")


@pytest.mark.nokvm
@pytest.mark.parametrize("n", range(4, 16))
def test_limit_of_descriptors_is_named(work, n):
    """Whoever meets it first: a file that is there needs no other path, a socket no other port."""
    pathlib.Path(work, "d").write_bytes(bytes(4096))
    facts = harness.HOSTS / "sapphire-rapids.json"
    for words in (["-k", GUEST, "-i", GUEST], ["--incoming", "unix:s"], ["--incoming", "tcp:127.0.0.1:0"],
                  ["-k", GUEST, "--host-facts", facts], ["-k", GUEST, "--daemonize"], ["-k", GUEST, "--dump-dtb", "o"]):
        r = harness.run_raw(["run", *words, "-d", "d"], work, prefix=["prlimit", f"--nofile={n}"])
        if "open files" in r.err:
            assert "(ulimit -n)" in r.log[-1] and r.log[-1].count(";") == 1, r


def test_few_descriptors(work):
    r = harness.run_raw(harness.arguments("hello"), work, prefix=["prlimit", "--nofile=8"])
    assert r.code in (VMM_ERROR, BAD_INPUT), r  # a file of the user's may be the one too many
    assert len(r.log) == 1 and r.log[0].startswith("testudo: "), r
    assert "Too many open files" in r.err or "ulimit -n" in r.err or "open files" in r.err, r


def test_little_address_space(work):
    binary = harness.TESTUDO.read_bytes()
    if b"__asan_init" in binary or b"__tsan_init" in binary:
        pytest.skip("the sanitizer itself wants address space")
    r = harness.run_raw(harness.arguments("hello", "-m", "1G"), work,
                        prefix=["prlimit", f"--as={512 << 20}"])
    assert r.code == VMM_ERROR and "-m" in r.err and len(r.log) == 1, r
