"""Packages of the Debian after this machine's. Nothing of it is installed: mmdebstrap unpacks the packages, with all that
they need, into an archive, of which the wanted parts are kept in the cache."""
import hashlib
import inspect
import pathlib
import subprocess
import tempfile

import t2  # noqa: F401  (makes the next one findable)
import files

SUITE = "trixie"


def folder(name, packages, parts, keep):
    """The cache's folder @name-..., filled by keep(tree, path) from the @parts (paths) of the unpacked @packages. It is
    made anew when anything about how it is made has changed."""
    def fill(path):
        with tempfile.TemporaryDirectory(prefix="testudo-") as work:
            made = subprocess.run(
                [files.tool("mmdebstrap"), "--quiet", "--variant=extract", f"--include={','.join(packages)}",
                 "--components=main", SUITE, "tree.tar"], cwd=work, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, check=False)
            if made.returncode != 0:
                why = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise files.FilesError(f"cannot get {', '.join(packages)} of Debian {SUITE}: {why}")
            tree = pathlib.Path(work) / "tree"
            tree.mkdir()
            subprocess.run(["tar", "-x", "--no-same-owner", "-C", tree, "-f", f"{tree}.tar",
                            *(f"./{part}" for part in parts)], check=True)
            keep(tree, path)

    recipe = "\n".join([SUITE, *packages, *parts, inspect.getsource(keep)])
    return files.cache_folder(f"{name}-{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}", fill)


def kernel():
    """The cache's folder with that Debian's kernel and its modules."""
    def keep(tree, path):
        (tree / "boot").rename(path / "boot")
        (path / "lib").mkdir()
        (tree / "usr/lib/modules").rename(path / "lib/modules")

    return folder("linux-image", [files.KERNEL], ["boot", "usr/lib/modules"], keep)
