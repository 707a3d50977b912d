"""Guests that releases of testudo saved (tests/golden/save_guest.py) are restored for ever."""

import lzma
import pathlib

import pytest

import harness

SAVED = sorted((harness.ROOT / "tests" / "data" / "streams").glob("*-guest.xz"))


@pytest.mark.nokvm
def test_there_is_one():
    assert SAVED


@pytest.mark.host("amd")
@pytest.mark.parametrize("saved", SAVED, ids=lambda path: path.name)
def test_a_saved_guest_of_a_release(launch, work, saved):
    """It comes with its memory, two processors, a disk of that size and serial number; all of them go on."""
    path, disk = pathlib.Path(work, "snapshot"), pathlib.Path(work, "disk.img")
    path.write_bytes(lzma.decompress(saved.read_bytes()))
    harness.make_disk(disk)
    g = launch("golden", "--verify-snapshot", "-d", f"{disk},serial=golden", incoming=f"file:{path}")
    beats = [cpu[0] for cpu in g.wait_beats()]
    assert len(beats) == 2 and min(beats) > 2000, "1000 before it was saved, and 1000 here"
