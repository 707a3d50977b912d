"""Stock Debian files for guests, and the images made of them.

The kernel and busybox come from Debian's packages, downloaded and unpacked but never installed. They are kept in
$TESTUDO_CACHE (default $XDG_CACHE_HOME/testudo or ~/.cache/testudo), one folder a package version. A folder is
filled under another name and then renamed, so it is either whole or absent, also with two runs at once.
"""
import contextlib
import fcntl
import hashlib
import inspect
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
KERNEL = "linux-image-cloud-amd64"
BUSYBOX = "busybox-static"


class FilesError(Exception):
    """One line: what could not be had, and what to do."""


def cache_dir():
    path = os.environ.get("TESTUDO_CACHE")
    if not path:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        path = os.path.join(base, "testudo")
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def cache_lock():
    with open(cache_dir() / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cache_folder(name, fill):
    """The cache's folder @name; when it is not there, fill(path) makes its content."""
    done = cache_dir() / name
    with cache_lock():
        if not done.is_dir():
            work = pathlib.Path(tempfile.mkdtemp(prefix=".new-", dir=cache_dir()))
            try:
                work.chmod(0o755)
                fill(work)
                work.rename(done)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return done


def recipe_name(name, fill, *parts):
    """A name for a folder of the cache that changes with how it is made: the source of @fill, and @parts."""
    recipe = "\n".join([*parts, inspect.getsource(fill)])
    return f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"


def cache_file(data, name):
    """A file of the cache named after its content."""
    digest = hashlib.sha256(data).hexdigest()[:16]
    return cache_folder(f"{name}-{digest}", lambda path: (path / name).write_bytes(data)) / name


# Packages

def apt_field(package, field):
    shown = subprocess.run(["apt-cache", "show", "--no-all-versions", package], stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, check=False).stdout
    found = re.search(rf"^{field}: (.*)$", shown, re.MULTILINE)
    return found.group(1) if found else None


def refresh_lists():
    subprocess.run([TOP / "tools" / "setup", "lists"], stdin=subprocess.DEVNULL, check=False)


def candidates():
    """(kernel package, its version, busybox version) as apt would choose now; None when apt does not know."""
    kernel = re.search(r"(linux-image-\S+) \(= (\S+)\)", apt_field(KERNEL, "Depends") or "")
    busybox = apt_field(BUSYBOX, "Version")
    return (*kernel.groups(), busybox) if kernel and busybox else None


def unpack(package, version, path):
    with tempfile.TemporaryDirectory(prefix="testudo-") as work:
        for attempt in (1, 2):
            got = subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download",
                                  f"{package}={version}"], cwd=work, stdin=subprocess.DEVNULL,
                                 capture_output=True, text=True, check=False)
            debs = list(pathlib.Path(work).glob("*.deb"))
            if got.returncode == 0 and debs:
                break
            if attempt == 2:
                why = (got.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise FilesError(f"cannot download Debian's package {package} {version}: {why}")
            refresh_lists()
        subprocess.run(["dpkg", "-x", debs[0], path], check=True)


class Stock:
    """Debian's own kernel, its modules and busybox, unpacked in the cache. @signed: leave the modules' signatures in;
    a kernel takes modules without as well, and spends no time on the check. @kernel: a folder with another kernel's
    package; @modules: {name: path} of modules that stand in for its own."""

    def __init__(self, signed=True, kernel=None, modules=None):
        self.signed = signed
        chosen = candidates()
        if not chosen:
            refresh_lists()
            chosen = candidates()
        if not chosen:
            raise FilesError(f"apt knows no {KERNEL} and {BUSYBOX}; add Debian's 'main' to apt's sources, "
                             "run 'apt-get update' and try again")
        package, self.kernel_version, self.busybox_version = chosen
        self.kernel = kernel or cache_folder(f"{package}_{self._plain(self.kernel_version)}",
                                             lambda path: unpack(package, self.kernel_version, path))
        self.vmlinuz = next(self.kernel.glob("boot/vmlinuz-*"))
        self.release = self.vmlinuz.name[len("vmlinuz-"):]
        folder = cache_folder(f"busybox-static_{self._plain(self.busybox_version)}",
                              lambda path: unpack(BUSYBOX, self.busybox_version, path))
        self.busybox = next(path for path in (folder / "usr/bin/busybox", folder / "bin/busybox") if path.exists())
        self._modules = {re.sub(r"\.ko(\.\w+)?$", "", path.name).replace("-", "_"): path
                         for root in ("lib/modules", "usr/lib/modules")
                         for path in (self.kernel / root).rglob("*.ko*")} | (modules or {})

    @staticmethod
    def _plain(version):
        return re.sub(r"[^\w.+~-]", "_", version)

    def module(self, name):
        path = self._modules[name]
        data = path.read_bytes()
        data = lzma.decompress(data) if path.suffix == ".xz" else data
        # struct module_signature, its length field last, and the mark (include/linux/module_signature.h)
        mark = b"~Module signature appended~\n"
        if not self.signed and data.endswith(mark):
            data = data[:-len(mark)]
            data = data[:-12 - int.from_bytes(data[-4:], "big")]
        return data

    def modules(self, names):
        """@names and what they need, as {name: content} in the order to load them. Names that this kernel has not
        as a module are taken as built in."""
        order = {}

        def add(name):
            name = name.replace("-", "_")
            if name in order or name not in self._modules:
                return
            data = self.module(name)
            # What depmod reads too: the .modinfo section has one "depends=a,b" string.
            for need in re.search(rb"\0depends=([^\0]*)\0", data).group(1).decode().split(","):
                add(need)
            order[name] = data

        for name in names:
            add(name)
        return order

    def vmlinux(self):
        """The uncompressed ELF kernel that is the payload of the bzImage."""
        def fill(path):
            image = self.vmlinuz.read_bytes()
            # Offsets of Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length.
            start = (image[0x1f1] + 1) * 512 + int.from_bytes(image[0x248:0x24c], "little")
            payload = image[start:start + int.from_bytes(image[0x24c:0x250], "little")]
            tools = {b"\x02\x21\x4c\x18": ["lz4", "-dc"], b"\x28\xb5\x2f\xfd": ["zstd", "-dc"],
                     b"\xfd7zX": ["xz", "-dc", "--single-stream"], b"\x1f\x8b\x08\x00": ["gzip", "-dc"]}
            words = tools.get(payload[:4])
            if not words:
                raise FilesError(f"{self.vmlinuz}: payload starts with {payload[:4].hex()}, no compression known here")
            # The last four bytes are the uncompressed size, which the tools see as garbage after the end.
            out = subprocess.run([tool(words[0]), *words[1:]], capture_output=True, check=False,
                                 input=payload[:-4] if words[0] != "gzip" else payload).stdout
            if out[:4] != b"\x7fELF" or len(out) != int.from_bytes(payload[-4:], "little"):
                raise FilesError(f"{self.vmlinuz}: {words[0]} gave no whole ELF file")
            (path / "vmlinux").write_bytes(out)

        return cache_folder(self.kernel.name + "_vmlinux", fill) / "vmlinux"


# Images

def cpio(tree):
    """A cpio archive in the kernel's "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst).
    @tree: {path: bytes, executable}; {path: None} is a folder; {path: str} a symbolic link."""
    out = bytearray()

    def entry(name, mode, data, number):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + path)
        out.extend(bytes(-len(out) % 4) + data)
        out.extend(bytes(-len(out) % 4))

    folders = {str(up) for path in tree for up in pathlib.PurePath(path).parents} - {"."}
    tree = {**{folder: None for folder in folders}, **tree}
    for number, name in enumerate(sorted(tree), 1):
        data = tree[name]
        if data is None:
            entry(name, 0o040755, b"", number)
        elif isinstance(data, str):
            entry(name, 0o120777, data.encode(), number)
        else:
            entry(name, 0o100755, data, number)
    entry("TRAILER!!!", 0, b"", 0)
    return bytes(out)


def initrd(stock, modules, init, more=None):
    """An initrd with busybox, @modules with /modules/order naming them in order, and the script @init."""
    loaded = stock.modules(modules)
    tree = {"bin/busybox": stock.busybox.read_bytes(), "bin/sh": "busybox", "init": pathlib.Path(init).read_bytes(),
            "modules/order": "".join(f"{name}\n" for name in loaded).encode()}
    tree |= {f"modules/{name}.ko": data for name, data in loaded.items()}
    tree |= {name: None for name in ("dev", "proc", "sys", "tmp", "run", "root", "mnt")}
    return cpio(tree | (more or {}))


def libraries(program):
    """The shared libraries that @program loads, with the loader itself."""
    shown = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return sorted(set(re.findall(r"(?:=> |^\s+)(/\S+) \(", shown, re.MULTILINE)))


def ext4_image(path, tree, spare_mib=8):
    """An ext4 image at @path with the files @tree ({path in the image: bytes or path of a file here})."""
    with tempfile.TemporaryDirectory(prefix="testudo-", dir=pathlib.Path(path).parent) as work:
        size = 0
        for name, source in tree.items():
            target = pathlib.Path(work) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                target.write_bytes(source)
                target.chmod(0o755)
            else:
                shutil.copy(source, target)
            size += target.stat().st_size + 4096
        make_ext4(path, work, size * 21 // 20 // 2**20 + spare_mib)


def make_ext4(path, tree, mib):
    """An ext4 image of @mib MiB at @path with all that is in the folder @tree."""
    subprocess.run([tool("mke2fs"), "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", tree, path,
                    f"{mib}M"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


def ext4_of(path, tree, spare_mib):
    """An ext4 image at @path with all that is in the folder @tree, and room for more."""
    used = subprocess.run(["du", "-sk", tree], capture_output=True, text=True, check=True).stdout
    make_ext4(path, tree, int(used.split()[0]) * 9 // 8 // 1024 + spare_mib)


def tool(name):
    """A program that may be in an sbin folder, which a user's PATH often lacks."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
    if not found:
        raise FilesError(f"{name} is not installed; run tools/setup")
    return found
