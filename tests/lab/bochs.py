"""Bochs, and the disc that it boots from.

Built from Debian's source with the patches in the folder bochs/ here, for the emulated CPU to do what the lab is about:
see each of them. The firmware is that of Debian's packages. All is kept in the cache, by what it is made of.
"""
import os
import pathlib
import subprocess
import tempfile

import t2
import files
import later

# Debian's source is what upstream released, less what is not free. Debian's own patches are of paths, which are given here.
SOURCE = "pool/main/b/bochs/bochs_3.0+dfsg.orig.tar.xz"
SHA256 = "78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b"
PATCHES = sorted((t2.HERE / "bochs").glob("*.patch"))
# No screen, no sound, no network and no debugger: none is used here. Without show-ips: it logs from a signal handler, which
# waits for ever when the signal comes while something else is logged.
OPTIONS = """--with-nogui --disable-docbook --disable-debugger --disable-x86-debugger --enable-all-optimizations
--enable-cpu-level=6 --enable-smp --enable-x86-64 --enable-vmx=2 --enable-avx --enable-evex --enable-amx --enable-cet
--enable-uintr --enable-protection-keys --enable-memtype --enable-pci --enable-cdrom --disable-show-ips CFLAGS=-O2 CXXFLAGS=-O2""".split()

FIRMWARE = ["usr/share/bochs", "usr/share/vgabios"]

# Bochs has no IA32_MISC_ENABLE. Without its bit 0 Linux takes the CPU for one without fast strings and picks a
# memmove() that this model's other features do not fit. Columns: number, type, reset value, reserved and ignored bits.
MSRS = "1a0 0 00000000 00000001 00000000 00000000 00000000 00000000\n"


def _said(words, cwd, **more):
    """Runs a step of the build; what it said, all of it as one error when it fails."""
    made = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", check=False, **more)
    if made.returncode != 0:
        raise files.FilesError(f"Bochs: {words[0]} failed: " + " / ".join(made.stdout.strip().splitlines()[-5:]))
    return made.stdout


def _source(path):
    """Debian's source archive, which apt fetches as it fetches packages; no lists of sources are needed."""
    _said(["/usr/lib/apt/apt-helper", "-o", "APT::Sandbox::User=root", "download-file", later.mirror() + SOURCE,
           path,
           f"SHA256:{SHA256}"], path.parent)


def _build(path):
    """The program, in the folder @path. Nothing of it is installed, and any user may."""
    for name in ("g++", "make", "patch"):
        files.tool(name)
    with tempfile.TemporaryDirectory(prefix="testudo-") as work:
        tree = pathlib.Path(work) / "tree"
        tree.mkdir()
        _source(pathlib.Path(work) / "source.tar.xz")
        _said(["tar", "-x", "--strip-components=1", "--no-same-owner", "-C", tree, "-f", "../source.tar.xz"], tree)
        for file in PATCHES:
            _said(["patch", "-p1", "-s", "-F0", "-i", file], tree)
        _said(["./configure", *OPTIONS], tree)
        _said(["make", f"-j{len(os.sched_getaffinity(0))}"], tree)
        _said(["strip", "-o", path / "bochs", "bochs"], tree)


def program():
    """Bochs, built if need be: two minutes on two processors."""
    compiler = _said([files.tool("g++"), "--version"], "/").splitlines()[0]
    made_of = [compiler, SHA256, *OPTIONS, *(file.read_text(encoding="utf-8") for file in PATCHES)]
    return files.cache_folder(files.recipe_name("bochs-3.0", _build, *made_of), _build) / "bochs"


def _keep(tree, path):
    """Moves the firmware, of the unpacked packages, from @tree to @path."""
    for name in FIRMWARE:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).rename(path / name)


def firmware():
    """The cache's folder with the BIOS of the machine and of its screen."""
    return later.folder("bochs-firmware", ["bochsbios", "vgabios"], FIRMWARE, _keep)


def command(config, arch_capabilities):
    """(words, environment) that run Bochs with the configuration file @config. @arch_capabilities: further bits of
    IA32_ARCH_CAPABILITIES, which in Bochs has 0x1f."""
    return [program(), "-q", "-f", config], dict(os.environ, BOCHS_ARCH_CAPABILITIES=hex(arch_capabilities))


# With SMAP on, Bochs 3.0 walks the page tables for each byte that the kernel copies from or to a user's page.
# Linux 7 with LASS uses STAC, an instruction of SMAP.
WITHOUT = "smap, lass"


def configuration(model, cpus, mips, mem_mib, work, disc, agent_port, disks=()):
    """The text of a configuration file. @mips: instructions, in millions, in one of the host's seconds; @work: folder
    for the console's and Bochs's own log; @agent_port: TCP port, here, that COM2 is connected to; @disks: up to three
    raw images, in the host /dev/sda and so on."""
    (work / "msrs").write_text(MSRS)
    text = f"""
display_library: nogui
romimage: file={firmware()}/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file={firmware()}/usr/share/vgabios/vgabios.bin
megs: {mem_mib}
cpu: model={model}, count={cpus}, ips={mips}000000, ignore_bad_msrs=1, msrs={work}/msrs, exclude_features="{WITHOUT}"
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
