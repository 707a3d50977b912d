"""Each fuzz target for a while, as many at once as there are CPUs. The first inputs are made by fuzz_seeds and, where
there is a /dev/kvm, cut from what guests sent when they migrated and were saved: real_seeds.py.

TESTUDO_FUZZ_BUILD names a build with clang and -Dfuzzers=true, TESTUDO_FUZZ_SECONDS how long each runs (20).
"""

import concurrent.futures
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

os.environ["TESTUDO_BUILD"] = str(TREE)  # of the guests that are recorded, too
sys.path[:0] = [str(TOP / "tests" / "fuzz"), str(TOP / "tests" / "e2e")]

import harness  # noqa: E402
import real_seeds  # noqa: E402
from test_net import net  # noqa: E402, F401  (a fixture)

SECONDS = int(os.environ.get("TESTUDO_FUZZ_SECONDS", "20"))
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in pathlib.Path(__file__).parent.glob("fuzz_*.c"))
TARGETS.remove("seeds")
CUT = ["description", "device", "frames", "ram", "state"]  # targets of what guests send
TEXTS = {"policy": [TOP / "policy" / "default.yaml"], "facts": list((TOP / "tests" / "data" / "hosts").glob("*.json")),
         "cpu_template": []}
TEMPLATE = '{"cpuid": [{"leaf": "0x7", "subleaf": "0x0", "edx": "0bxxxxxxx1"}], "msr": [{"index": "0x10a", "value": "0bx1"}]}'


def command(target, work, *options):
    return [BUILD / f"fuzz_{target}", "-timeout=10", "-rss_limit_mb=1024", "-max_len=65536", *options,
            f"-artifact_prefix={work}/"]


def fuzz(target, work):
    """One target on one CPU. Its result, as subprocess has it."""
    (work / target).mkdir(exist_ok=True)  # some begin with nothing
    words = [*command(target, work, f"-max_total_time={SECONDS}", "-print_final_stats=1"), work / target]
    if (work / "real" / target).exists():
        words.append(work / "real" / target)
    return subprocess.run(words, cwd=work, capture_output=True, text=True, errors="replace", check=False,
                          timeout=SECONDS + 120)


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
    (work / "cpu_template" / "template").write_text(TEMPLATE)
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


def coverage(target, work, *folders):
    """(edges, features: edges by how often they are taken) that these inputs reach without any change"""
    done = subprocess.run([*command(target, work, "-runs=0"), *folders], capture_output=True, text=True,
                          errors="replace", check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-6000:]
    return tuple(map(int, re.search(r"INITED cov: (\d+) ft: (\d+)", done.stderr).groups()))


@pytest.fixture(scope="module")
def reached(seeds, real):
    """{target: what fuzz_seeds made reaches, and with what guests made}, before the targets add to it"""
    if not (seeds / "real").exists():
        return {}
    return {target: (coverage(target, seeds, seeds / target),
                     coverage(target, seeds, seeds / target, seeds / "real" / target)) for target in CUT}


@pytest.fixture(scope="module")
def results(seeds, reached):
    """All targets run, by name."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda target: fuzz(target, seeds), TARGETS)
        return dict(zip(TARGETS, done))


@pytest.mark.parametrize("target", TARGETS)
def test_fuzz(results, target):
    done = results[target]
    assert done.returncode == 0, done.stderr[-6000:]
    runs = int(re.search(r"number_of_executed_units: (\d+)", done.stderr)[1])
    assert runs > 50 * SECONDS, f"only {runs} inputs in {SECONDS} s"


@pytest.mark.parametrize("target", CUT)
def test_guests_reach_further(reached, real, target):
    """What guests sent gets to places that the inputs made by hand do not."""
    if not reached:
        pytest.skip(f"no guest could be recorded, the targets began with inputs made by hand: {real}")
    without, both = reached[target]
    print("edges and features: {}, {} by hand; {}, {} with what guests sent".format(*without, *both))
    assert both[0] >= without[0] and both[1] > without[1]


def test_all_guests(real):
    """Were all kinds of guests there to be recorded?"""
    if real:
        pytest.skip(real)
