"""Packages of another Debian than this machine's, mostly the next one. Nothing of it is installed: mmdebstrap unpacks the packages, with all that
they need, into an archive, of which the wanted parts are kept in the cache."""
import os
import pathlib
import shutil
import subprocess
import tempfile

import files

SUITE = "trixie"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
BACKPORTS = "-backports"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def mirror():
    """The mirror of Debian that apt uses here."""
    known = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout
    found = next((line for line in known.splitlines() if line.endswith("/debian/")), None)
    if found is None:
        raise files.FilesError("apt knows no mirror of Debian; see sources.list(5)")
    return found


def _sources(suite):
    """(suite, lines of sources.list) for mmdebstrap; a suite of backports wants the one that they are for, too."""
    base = suite.removesuffix(BACKPORTS)
    lines = [f"deb [signed-by={KEYRING}] {mirror()} {name} main" for name in (base, suite)] if base != suite else []
    return base, lines


def folder(name, packages, parts, keep, suite=SUITE):
    """The cache's folder @name-..., filled by keep(tree, path) from the @parts (paths) of the unpacked @packages of that
    Debian. It is made anew when anything about how it is made has changed."""
    def fill(path):
        with tempfile.TemporaryDirectory(prefix="testudo-") as work:
            # Nothing is run of what is unpacked, so that any user may; root is asked for more in that mode.
            mode = "auto" if os.geteuid() == 0 else "chrootless"
            base, lines = _sources(suite)
            made = subprocess.run(
                [files.tool("mmdebstrap"), "--quiet", f"--mode={mode}", "--variant=extract",
                 f"--include={','.join(packages)}", "--components=main", base, "tree.tar", *lines],
                cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if made.returncode != 0:
                why = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise files.FilesError(f"cannot get {', '.join(packages)} of Debian {suite}: {why}")
            tree = pathlib.Path(work) / "tree"
            tree.mkdir()
            subprocess.run(["tar", "-x", "--no-same-owner", "-C", tree, "-f", f"{tree}.tar",
                            *(f"./{part}" for part in parts)], check=True)
            keep(tree, path)

    return files.cache_folder(files.recipe_name(f"{name}-{suite}", keep, suite, *packages, *parts), fill)


def keep_libraries(tree, path, programs):
    """Copies from @tree to @path what the @programs, which are in @path already, load, with the loader."""
    (path / LIBRARIES).mkdir(parents=True, exist_ok=True)
    loader = tree / LIBRARIES / "ld-linux-x86-64.so.2"
    wanted = {loader.name}
    for program in programs:
        shown = subprocess.run([loader, "--library-path", loader.parent, "--list", program],
                               capture_output=True, text=True, check=False).stdout
        paths = (pathlib.Path(line.split(" => ")[1].split(" (")[0]) for line in shown.splitlines() if " => /" in line)
        wanted |= {found.name for found in paths if found.parent == loader.parent}
    for name in wanted:
        shutil.copy(tree / LIBRARIES / name, path / LIBRARIES / name)


def program(path, name):
    """The words that run the program @name of the folder @path, by the loader of its own C library."""
    return [path / LIBRARIES / "ld-linux-x86-64.so.2", "--library-path", path / LIBRARIES, path / name]


def kernel(suite=SUITE):
    """The cache's folder with that Debian's kernel and its modules."""
    backports = suite.endswith(BACKPORTS)
    modules = "lib/modules" if suite == "bookworm" else "usr/lib/modules"

    def keep(tree, path):
        (path / "lib").mkdir()
        (tree / modules).rename(path / "lib/modules")
        if (tree / "boot").is_dir():
            (tree / "boot").rename(path / "boot")
            return
        # Since Linux 7 the image lies with the modules.
        (path / "boot").mkdir()
        for image in (path / "lib/modules").glob("*/vmlinuz"):
            image.rename(path / f"boot/vmlinuz-{image.parent.name}")

    package = f"{files.KERNEL}/{suite}" if backports else files.KERNEL
    return folder("linux-image", [package], [modules] if backports else ["boot", modules], keep, suite)
