"""Each fuzz target for a while, from real first inputs; as many at once as there are CPUs.

TESTUDO_FUZZ_BUILD names a build with clang and -Dfuzzers=true, TESTUDO_FUZZ_SECONDS how long each runs (20).
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TESTUDO_FUZZ_BUILD", TOP / "build-clang")).resolve() / "tests" / "fuzz"
SECONDS = int(os.environ.get("TESTUDO_FUZZ_SECONDS", "20"))
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in pathlib.Path(__file__).parent.glob("fuzz_*.c"))
TARGETS.remove("seeds")
TEXTS = {"policy": [TOP / "policy" / "default.yaml"], "facts": list((TOP / "tests" / "data" / "hosts").glob("*.json")),
         "cpu_template": []}
TEMPLATE = '{"cpuid": [{"leaf": "0x7", "subleaf": "0x0", "edx": "0bxxxxxxx1"}], "msr": [{"index": "0x10a", "value": "0bx1"}]}'


def fuzz(target, work):
    """One target on one CPU. Its result, as subprocess has it."""
    (work / target).mkdir(exist_ok=True)  # some begin with nothing
    command = [BUILD / f"fuzz_{target}", f"-max_total_time={SECONDS}", "-timeout=10", "-rss_limit_mb=1024",
               "-max_len=65536", "-print_final_stats=1", f"-artifact_prefix={work}/", work / target]
    return subprocess.run(command, cwd=work, capture_output=True, text=True, errors="replace", check=False,
                          timeout=SECONDS + 120)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All targets run, by name."""
    if not (BUILD / "fuzz_seeds").exists():
        pytest.skip(f"no fuzz targets in {BUILD}: build with clang and -Dfuzzers=true")
    work = tmp_path_factory.mktemp("fuzz")
    subprocess.run([BUILD / "fuzz_seeds", work], check=True)
    for target, files in TEXTS.items():
        (work / target).mkdir()
        for path in files:
            shutil.copy(path, work / target)
    (work / "cpu_template" / "template").write_text(TEMPLATE)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda target: fuzz(target, work), TARGETS)
        return dict(zip(TARGETS, done))


@pytest.mark.parametrize("target", TARGETS)
def test_fuzz(results, target):
    done = results[target]
    assert done.returncode == 0, done.stderr[-6000:]
    runs = int(re.search(r"number_of_executed_units: (\d+)", done.stderr)[1])
    assert runs > 50 * SECONDS, f"only {runs} inputs in {SECONDS} s"
