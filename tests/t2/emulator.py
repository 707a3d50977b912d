"""QEMU, as the emulated hosts need it.

Debian 12's emulates an XSAVE that Linux finds inconsistent and switches off, so it comes from the next Debian on every
machine; program, firmware and the libraries that it loads are kept in the cache.
"""
import pathlib

import later

PACKAGES = ["qemu-system-x86"]
FIRMWARE = ["usr/share/seabios/bios-256k.bin", "usr/share/qemu/kvmvapic.bin", "usr/share/qemu/linuxboot_dma.bin"]
PROGRAM = "usr/bin/qemu-system-x86_64"
PARTS = [PROGRAM, *FIRMWARE, later.LIBRARIES]


def _keep(tree, path):
    """Moves what is wanted of the unpacked packages from @tree to @path."""
    for folder, names in (("bin", [PROGRAM]), ("firmware", FIRMWARE)):
        (path / folder).mkdir()
        for name in names:
            (tree / name).rename(path / folder / pathlib.PurePath(name).name)
    later.keep_libraries(tree, path, [path / "bin/qemu-system-x86_64"])


def folder():
    """The cache's folder with QEMU."""
    return later.folder("qemu", PACKAGES, PARTS, _keep)


def qemu():
    """The words that run it."""
    return [*later.program(folder(), "bin/qemu-system-x86_64"), "-L", folder() / "firmware"]
