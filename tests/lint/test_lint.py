"""What compilers find in the program when they are asked to look for faults: one case a file, a line for each finding.

clang-tidy, by .clang-tidy, over all of it; gcc's analyzer over what reads what strangers send. Both are run as TESTUDO_BUILD
(build) was configured. What is found is mended, or excepted with a reason: by NOLINT at its place, or by a row of EXCEPTED.
Another version finds other things: one is what the tree is held to.
"""

import concurrent.futures
import fnmatch
import json
import os
import pathlib
import re
import shlex
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TESTUDO_BUILD", TOP / "build")).resolve()
ROOMS = ["base", "control", "cpuid", "msr", "policy", "migration", "devices", "vmm"]
ANALYZED = ["base", "control", "migration", "devices", "policy"]
VERSIONS = {"clang-tidy": 14, "gcc": 12}

# (files, what is said of them): why it is not so
EXCEPTED = {
    ("base/options.c", "use of uninitialized value 'rows"): "the first round fills row 0, each later one reads what was filled",
    ("migration/description/description_write.c", "use of NULL 's'"): "description_check_bounds() knows the vendor",
    ("policy/policy_file.c", "use of uninitialized value"): "copied after a load that failed, too, and not looked at then",
    ("policy/cpu_template.c", "core.uninitialized.Assign"): "read_bitmap() sets both or fails, never with a number above 0",
    ("migration/move/source_copy.c", "bugprone-integer-division"): "an eighth of a limit in ns",
    ("migration/move/save.c", "-Wanalyzer-malloc-leak"): "write_file() frees the checksums at its end, by the same member",
    ("migration/move/restore.c", "-Wanalyzer-malloc-leak"): "migration_restore() frees the checksums at its end, by that member",
    ("vmm/guest/migrate_qmp.c", "core.CallAndMessage"): "a counter of descriptors and the descriptors are filled together",
}

# Files over which clang's analyzer ends by a signal: the other checks look at them.
CRASHES = {"vmm/cmd/policy.c": "in find_word(), whose tables are given as void pointers"}


def commands():
    """{source file: the words of its compilation, without the compiler and without what it writes}"""
    found = {}
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        path = (pathlib.Path(entry["directory"]) / entry["file"]).resolve()
        words = iter(shlex.split(entry["command"]))
        for word in words:
            if word.endswith(("gcc", "cc", "clang")):
                break
        kept = []
        for word in words:
            if word in ("-MQ", "-MF", "-o"):
                next(words)
            elif word not in ("-MD", "-c"):
                kept.append(word)
        found.setdefault(path.relative_to(TOP).as_posix(), kept)
    return found


def files(rooms):
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *(f"{room}/*.c" for room in rooms)], cwd=TOP,
                            capture_output=True, text=True, check=True).stdout.split()
    return [name for name in listed if (TOP / name).exists()]


def why_not(tool):
    said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    found = int(re.search(r"(?:version|\)) (\d+)\.", said)[1])
    return None if found == VERSIONS[tool] else f"{tool} {found} finds other things than {VERSIONS[tool]}, which the tree is held to"


def left(name, findings):
    """Those lines of @findings that are not excepted."""
    return "\n".join(line for line in findings
                     if not any(fnmatch.fnmatch(name, file) and what in line for file, what in EXCEPTED))


def tidy(name):
    less = ["--checks=-clang-analyzer-*"] if name in CRASHES else []
    done = subprocess.run(["clang-tidy", "--quiet", *less, "-p", BUILD, TOP / name], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if re.search(r": (error|warning): ", line)]
    assert done.returncode == 0 or found, done.stderr
    return left(name, found)


def analyze(name, words):
    done = subprocess.run(["gcc", *words, "-c", "-fanalyzer", "-Wno-error", "-fdiagnostics-color=never", "-o",
                           "/dev/null"], cwd=BUILD, env={**os.environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return left(name, [line for line in done.stderr.splitlines() if "[-Wanalyzer" in line])


def for_each(do, names):
    """{file: what was found}, as many at once as there are processors."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(names, pool.map(do, names)))


def chosen(request, test):
    """The files of those cases of @test that pytest is to run."""
    return [item.callspec.params["name"] for item in request.session.items if item.originalname == test]


@pytest.fixture(scope="module")
def tidied(request):
    reason = why_not("clang-tidy")
    return None if reason else for_each(tidy, chosen(request, "test_clang_tidy"))


@pytest.fixture(scope="module")
def analyzed(request):
    if why_not("gcc"):
        return None
    words = commands()
    return for_each(lambda name: analyze(name, words[name]), chosen(request, "test_gcc_analyzer"))


@pytest.mark.parametrize("name", files(ROOMS))
def test_clang_tidy(tidied, name):
    if tidied is None:
        pytest.skip(why_not("clang-tidy"))
    assert tidied[name] == "", tidied[name]


@pytest.mark.parametrize("name", files(ANALYZED))
def test_gcc_analyzer(analyzed, name):
    if analyzed is None:
        pytest.skip(why_not("gcc"))
    assert analyzed[name] == "", analyzed[name]


def test_exceptions_have_a_place():
    """A file that is excepted is there, and so is the check that a NOLINT names."""
    assert all(list(TOP.glob(name)) for name, _ in EXCEPTED) and all((TOP / name).exists() for name in CRASHES)
    bare = [f"{name}:{number}" for name in files(ROOMS)
            for number, line in enumerate((TOP / name).read_text().splitlines(), 1)
            if "NOLINT" in line and not re.search(r"NOLINT(NEXTLINE)?\([a-z].*\): \w", line)]
    assert bare == [], "a NOLINT without its check and a reason"
