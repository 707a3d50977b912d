"""Each fuzz target over the inputs that are there, then over those that it makes up for a while, as many targets at once
as there are CPUs. It begins with corpus/, with what fuzz_seeds makes and, where there is a /dev/kvm, with what guests of
this build sent when they migrated and were saved: real_seeds.py.

What is found stays in BUILD/fuzz-found/TARGET, is told with the command that repeats it, and fails again until it is
mended: corpus/README.md.

TESTUDO_FUZZ_BUILD names a build with clang and -Dfuzzers=true, TESTUDO_FUZZ_SECONDS how long each runs (20; 0: only
what is there).
"""

import base64
import concurrent.futures
import gzip
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
TREE = pathlib.Path(os.environ.get("TESTUDO_FUZZ_BUILD", TOP / "build-clang")).resolve()
BUILD = TREE / "tests" / "fuzz"
CORPUS = TOP / "tests" / "fuzz" / "corpus"
FOUND = TREE / "fuzz-found"
TOLD = 8 << 10  # so many characters of base64 are printed: a machine of CI is gone when somebody looks

os.environ["TESTUDO_BUILD"] = str(TREE)  # of the guests that are recorded, too
sys.path[:0] = [str(TOP / "tests" / "fuzz"), str(TOP / "tests" / "e2e")]

import harness  # noqa: E402
import real_seeds  # noqa: E402
from test_net import net  # noqa: E402, F401  (a fixture)

SECONDS = int(os.environ.get("TESTUDO_FUZZ_SECONDS", "20"))
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in pathlib.Path(__file__).parent.glob("fuzz_*.c"))
TARGETS.remove("seeds")
CUT = ["description", "device", "frames", "ram", "state"]  # targets of what guests send
TEXTS = {"policy": [TOP / "policy" / "default.yaml"], "facts": list((TOP / "tests" / "data" / "hosts").glob("*.json"))}


def run(target, *words, seconds=0):
    """The target once. Return: its standard error; what it stumbles over is kept, and fails with all that is needed"""
    found = FOUND / target
    found.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    limits = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=65536", f"-artifact_prefix={found}/"]
    done = subprocess.run([BUILD / f"fuzz_{target}", *limits, *words], capture_output=True, text=True, errors="replace",
                          check=False, timeout=seconds + 120)
    if done.returncode:
        new = sorted(set(found.iterdir()) - before)
        if not new:  # it was a file that is there
            new = map(pathlib.Path, re.findall(r"^Running: (.*)$", done.stderr, re.MULTILINE)[-1:])
        pytest.fail("\n\n".join([done.stderr[-6000:], *(how_to_repeat(target, path) for path in new)]), pytrace=False)
    return done.stderr


def how_to_repeat(target, path):
    """For people: where the input is, what it is if it is small, and what to do with it"""
    lines = [f"the input, {path.stat().st_size} bytes, is kept: {path}",
             f"  again:    {BUILD / f'fuzz_{target}'} {path}"]
    if CORPUS in path.parents:
        return "\n".join(lines)
    lines.append(f"  mended:   mv {path} {CORPUS / target}/SAY-WHAT-IT-IS")
    text = base64.b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode()
    if len(text) <= TOLD:
        lines.append(f"  anywhere: echo {text} | base64 -d | gunzip >{path.name}")
    return "\n".join(lines)


def known(target, work):
    """Folders of inputs for it; what the target adds goes to the first one."""
    (work / target).mkdir(exist_ok=True)  # some begin with nothing
    return [folder for folder in (work / target, work / "real" / target, CORPUS / target) if folder.exists()]


def fuzz(target, work):
    """One target on one CPU. Return: (how many inputs it began with, how many it ran), or how it failed"""
    folders = known(target, work)
    begun = sum(len(list(folder.iterdir())) for folder in folders)
    limit = f"-max_total_time={SECONDS}" if SECONDS else "-runs=0"
    try:
        said = run(target, limit, "-print_final_stats=1", *folders, seconds=SECONDS)
    except pytest.fail.Exception as e:
        return e
    return begun, int(re.search(r"number_of_executed_units: (\d+)", said)[1])


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A folder of a folder of first inputs for each target"""
    if not (BUILD / "fuzz_seeds").exists():
        pytest.skip(f"no fuzz targets in {BUILD}: build with clang and -Dfuzzers=true")
    work = tmp_path_factory.mktemp("fuzz")
    subprocess.run([BUILD / "fuzz_seeds", work], check=True)
    for target, files in TEXTS.items():
        (work / target).mkdir()
        for path in files:
            shutil.copy(path, work / target)
    return work


@pytest.fixture(scope="module")
def real(seeds, request):
    """The folder "real" in it, of inputs that guests made. What is missing there, and why; or ''"""
    why = harness.why_no_kvm()
    if why:
        return why
    try:
        network = request.getfixturevalue("net")
    except pytest.skip.Exception as e:
        network, why = None, f"no guest with a network: {e}"
    with tempfile.TemporaryDirectory(prefix="testudo-fuzz-") as work:  # short enough for a socket's path
        real_seeds.make(seeds / "real", work, network)
    return why or ""


def coverage(target, *folders):
    """(edges, features: edges by how often they are taken) that these inputs reach without any change"""
    return tuple(map(int, re.search(r"INITED cov: (\d+) ft: (\d+)", run(target, "-runs=0", *folders)).groups()))


@pytest.mark.parametrize("target", TARGETS)
def test_corpus(seeds, target):
    """What was ever found, here or elsewhere, is mended."""
    inputs = sorted(CORPUS.glob(f"{target}/*")) + sorted(FOUND.glob(f"{target}/*"))
    assert inputs
    run(target, *inputs)


@pytest.fixture(scope="module")
def reached(seeds, real):
    """{target: what fuzz_seeds made reaches, and with what guests made}, before the targets add to it"""
    return {target: (coverage(target, seeds / target), coverage(target, *known(target, seeds))) for target in CUT}


@pytest.fixture(scope="module")
def results(seeds, reached):
    """All targets run, by name."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda target: fuzz(target, seeds), TARGETS)
        return dict(zip(TARGETS, done))


@pytest.mark.parametrize("target", TARGETS)
def test_fuzz(results, target):
    if isinstance(results[target], BaseException):
        raise results[target]
    begun, runs = results[target]
    print(f"{begun} inputs to begin with, {runs} in {SECONDS} s")
    assert runs > begun or not SECONDS


@pytest.mark.parametrize("target", CUT)
def test_guests_reach_further(reached, target):
    """What guests sent, those of the corpus at least, gets to places that the inputs made by hand do not."""
    without, both = reached[target]
    print("edges and features: {}, {} by hand; {}, {} with what guests sent".format(*without, *both))
    assert both[0] >= without[0] and both[1] > without[1]


def test_all_guests(real):
    """Were all kinds of guests there to be recorded?"""
    if real:
        pytest.skip(real)
