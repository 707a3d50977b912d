"""Bochs, and the disc that it boots from.

Debian 12 has one too old, so it comes from the next; program, plugins, firmware and the libraries that they load are
kept in the cache. It runs by the loader of its own C library.
"""
import os
import pathlib
import subprocess
import tempfile

import t2  # noqa: F401  (makes the next one findable)
import files
import later

PACKAGES = ["bochs", "bochs-term", "bochsbios", "vgabios"]
LIBRARIES = later.LIBRARIES
PARTS = ["usr/bin/bochs-bin", "usr/share/bochs", "usr/share/vgabios", LIBRARIES]
PLUGINS = "bochs/plugins"

# Bochs has no IA32_MISC_ENABLE. Without its bit 0 Linux takes the CPU for one without fast strings and picks a
# memmove() that this model's other features do not fit. Columns: number, type, reset value, reserved and ignored bits.
MSRS = "1a0 0 00000000 00000001 00000000 00000000 00000000 00000000\n"


def _keep(tree, path):
    """Moves what is wanted of the unpacked packages from @tree to @path."""
    for name in ("usr/share/bochs", "usr/share/vgabios", f"{LIBRARIES}/{PLUGINS}"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).rename(path / name)
    (path / "bin").mkdir()
    (tree / "usr/bin/bochs-bin").rename(path / "bin/bochs")
    later.keep_libraries(tree, path, [path / "bin/bochs", *(path / LIBRARIES / PLUGINS).glob("*.so")])


def folder():
    """The cache's folder with Bochs."""
    return later.folder("bochs", PACKAGES, PARTS, _keep)


def command(config):
    """(words, environment) that run Bochs with the configuration file @config."""
    return ([*later.program(folder(), "bin/bochs"), "-q", "-f", config],
            dict(os.environ, LTDL_LIBRARY_PATH=str(folder() / LIBRARIES / PLUGINS)))


# With SMAP on, Bochs 3.0 walks the page tables for each byte that the kernel copies from or to a user's page.
WITHOUT = "smap"


def configuration(model, mips, mem_mib, work, disc, agent_port, disks=()):
    """The text of a configuration file. @mips: instructions, in millions, in one of the host's seconds; @work: folder
    for the console's and Bochs's own log; @agent_port: TCP port, here, that COM2 is connected to; @disks: up to three
    raw images, in the host /dev/sda and so on."""
    (work / "msrs").write_text(MSRS)
    text = f"""
display_library: rfb, options="timeout=0"
sound: driver=dummy
romimage: file={folder()}/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file={folder()}/usr/share/vgabios/vgabios.bin
megs: {mem_mib}
cpu: model={model}, count=1, ips={mips}000000, ignore_bad_msrs=1, msrs={work}/msrs, exclude_features="{WITHOUT}"
clock: sync=none
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata1-master: type=cdrom, path={disc}, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={work}/console.log
com2: enabled=1, mode=socket-client, dev=localhost:{agent_port}
log: {work}/bochs.log
panic: action=fatal
"""
    for place, path in zip(("ata0-master", "ata0-slave", "ata1-slave"), disks, strict=False):
        text += f"{place}: type=disk, path={path}, mode=flat\n"
    return text


def make_disc(path, kernel, initrd, append):
    """A bootable disc image with Linux."""
    isolinux, modules = "/usr/lib/ISOLINUX", "/usr/lib/syslinux/modules/bios"
    with tempfile.TemporaryDirectory(prefix="testudo-", dir=path.parent) as work:
        tree = pathlib.Path(work)
        for name, source in (("isolinux.bin", f"{isolinux}/isolinux.bin"), ("ldlinux.c32", f"{modules}/ldlinux.c32"),
                             ("vmlinuz", kernel), ("initrd", initrd)):
            if not os.path.exists(source):
                raise files.FilesError(f"{source} is missing; run tools/setup lab")
            (tree / name).write_bytes(pathlib.Path(source).read_bytes())
        (tree / "isolinux.cfg").write_text(
            f"default linux\nprompt 0\nlabel linux\n kernel vmlinuz\n initrd initrd\n append {append}\n")
        subprocess.run([files.tool("xorriso"), "-as", "mkisofs", "-quiet", "-o", path, "-b", "isolinux.bin",
                        "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", tree],
                       stdin=subprocess.DEVNULL, capture_output=True, check=True)
