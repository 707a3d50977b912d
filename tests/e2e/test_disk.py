"""virtio-blk and virtio-rng: the guest reads and writes, the image is checked from outside."""

import hashlib
import os
import signal

import pytest

import harness
from harness import BAD_INPUT, OFF, SECTOR


@pytest.fixture
def disk(work):
    return harness.make_disk(os.path.join(work, "disk"))


def contents(path):
    with open(path, "rb") as f:
        return f.read()


@pytest.mark.parametrize("irq", [0, 1])
@pytest.mark.parametrize("options", ["", ",direct"])
def test_read_and_write(testudo, disk, irq, options):
    r = testudo(f"blk start=3 sectors=777 seed=5 irq={irq}", "-d", disk + options)
    r.expect(OFF, "done blk")
    facts = r.facts("blk slot")
    assert (facts["capacity"], facts["ro"], facts["flush"]) == ("2048", "0", "1")
    data = contents(disk)
    assert data[3 * SECTOR:780 * SECTOR] == harness.disk_words(3, 777, 5)
    assert not any(data[:3 * SECTOR]) and not any(data[780 * SECTOR:])
    if irq:
        facts = r.facts("blk interrupts")
        assert facts["interrupts"] == facts["requests"]


def test_data_is_there_on_the_next_boot(testudo, disk):
    testudo("blk op=write sectors=500", "-d", disk).expect(OFF, "done blk")
    testudo("blk op=read sectors=500", "-d", disk).expect(OFF, "done blk")


def test_last_sector(testudo, disk):
    testudo("blk start=2047 sectors=1", "-d", disk).expect(OFF, "done blk")
    assert contents(disk)[-SECTOR:] == harness.disk_words(2047, 1)


@pytest.mark.parametrize("serial", ["", "A", "DATA-1", "x" * 20])
def test_serial(testudo, disk, serial):
    r = testudo("blk op=info", "-d", f"{disk},serial={serial}" if serial else disk)
    r.expect(OFF, "done blk")
    if serial:
        assert r.facts("blk slot")["serial"] == serial


def test_read_only(testudo, disk):
    with open(disk, "r+b") as f:
        f.write(harness.disk_words(0, 64))
    os.chmod(disk, 0o444)
    before = hashlib.sha256(contents(disk)).digest(), os.stat(disk).st_mtime_ns
    r = testudo("blk sectors=64", "-d", f"{disk},ro").expect(OFF, "done blk")
    assert r.facts("blk slot")["ro"] == "1"
    assert r.facts("blk read")["bad_words"] == "0"
    assert (hashlib.sha256(contents(disk)).digest(), os.stat(disk).st_mtime_ns) == before


def test_sparse_image_larger_than_any_32_bit_count(testudo, work):
    big = harness.make_disk(os.path.join(work, "big"), 3 << 40)
    last = (3 << 40) // SECTOR - 2
    testudo(f"blk start={last} sectors=2", "-d", big).expect(OFF, "done blk")
    with open(big, "rb") as f:
        f.seek(last * SECTOR)
        assert f.read() == harness.disk_words(last, 2)
    assert os.stat(big).st_blocks < 1000


def test_two_disks_keep_their_order(testudo, work):
    a = harness.make_disk(os.path.join(work, "a"), 1 << 20)
    b = harness.make_disk(os.path.join(work, "b"), 2 << 20)
    r = testudo("blk disk=1", "-d", f"{a},serial=first", "-d", f"{b},serial=second")
    r.expect(OFF, "done blk")
    assert r.facts("blk slot")["serial"] == "second"
    assert r.facts("blk slot")["capacity"] == "4096"
    assert not any(contents(a))


def test_all_slots(testudo, work):
    words = []
    for i in range(18):
        words += ["-d", harness.make_disk(os.path.join(work, f"d{i}"))]
    r = testudo("virtio", *words).expect(OFF, "done virtio")
    assert r.facts("virtio present")["present"] == "19"
    assert [f"slot={i}" in r.lines[i] for i in range(19)] == [True] * 19
    assert "id=4" in r.lines[18]
    testudo("blk disk=17 irq=1", *words).expect(OFF, "done blk")


def test_comma_in_the_name(testudo, work):
    path = harness.make_disk(os.path.join(work, "a,ro"))
    r = testudo("blk", "-d", path.replace(",", ",,")).expect(OFF, "done blk")
    assert r.facts("blk slot")["ro"] == "0"


@pytest.mark.parametrize("first,second,works", [
    ("", "", False), ("", ",ro", False), (",ro", "", False), (",ro", ",ro", True),
])
def test_lock(testudo, live, disk, first, second, works):
    with live("hello end=hlt", "-d", disk + first) as t:
        t.read_until(b"done hello\n")
        r = testudo("blk op=info", "-d", disk + second)
        if works:
            r.expect(OFF, "done blk")
        else:
            r.expect_error(BAD_INPUT, disk)
        assert t.end() == -signal.SIGTERM
    testudo("blk op=info", "-d", disk).expect(OFF, "done blk")  # the lock went with it


def test_same_image_twice_in_one_guest(testudo, disk):
    testudo("hello", "-d", disk, "-d", disk).expect_error(BAD_INPUT, disk)


@pytest.mark.parametrize("size", [0, 1, 511, 513, (1 << 20) + 100])
def test_odd_size(testudo, work, size):
    path = harness.make_disk(os.path.join(work, "odd"), size)
    testudo("hello", "-d", path).expect_error(BAD_INPUT, path)


def test_write_that_the_host_refuses(work):
    """Beyond RLIMIT_FSIZE: the guest sees an I/O error, testudo lives on."""
    disk = harness.make_disk(os.path.join(work, "disk"), 1 << 30)
    start = (600 << 20) // SECTOR
    r = harness.run_raw(harness.arguments(f"blk start={start}", "-m", "64", "-d", disk), work,
                        prefix=["prlimit", f"--fsize={512 << 20}"])
    r.expect(OFF, "fail blk the disk refused a write")


def test_rng(testudo):
    seen = set()
    for _ in range(3):
        r = testudo("rng bytes=64").expect(OFF, "done rng")
        data = bytes.fromhex(r.facts("rng ")["hex"])
        assert len(data) == 64 and len(set(data)) > 20
        seen.add(data)
    assert len(seen) == 3


def test_no_rng(testudo):
    r = testudo("virtio", "--no-rng").expect(OFF, "done virtio")
    assert r.facts("virtio present")["present"] == "0"
    testudo("rng", "--no-rng").expect(OFF, "fail rng there is no rng")


@pytest.mark.parametrize("ports,seed", [(1, 1), (0, 2)])
def test_hostile_guest(testudo, disk, ports, seed):
    """The VMM survives, and every device works again after a reset."""
    r = testudo(f"hostile ports={ports} seed={seed}", "-d", disk, timeout=180)
    r.expect(OFF, "done hostile")
    assert r.out.count("hostile alive") == 2
    assert all(line.startswith("testudo: ") for line in r.log)


def test_hostile_guest_cannot_fill_the_log(testudo, disk):
    r = testudo("hostile n=0 ports=0", "-d", disk, timeout=180).expect(OFF, "done hostile")
    assert len(r.log) < 100, f"{len(r.log)} lines"
