"""Every unit test program of a build: run once, judged by its TAP lines.

TESTUDO_UNIT_BUILDS has the builds, with ':' between them; TESTUDO_UNIT_SUITE=threads takes only those with threads.
"""

import json
import os
import pathlib
import re
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
SUITE = os.environ.get("TESTUDO_UNIT_SUITE", "unit")
BUILDS = [pathlib.Path(path).resolve()
          for path in os.environ.get("TESTUDO_UNIT_BUILDS", str(TOP / "build")).split(":")]


def programs():
    """(build name, test name, command, environment) of all of Meson's tests in the suite."""
    for build in BUILDS:
        listed = subprocess.run(["meson", "introspect", "--tests", build], capture_output=True, check=True).stdout
        for test in json.loads(listed):
            if any(suite.endswith(f":{SUITE}") for suite in test["suite"]):
                yield pytest.param(test["cmd"], test["env"], test["protocol"], build, id=f"{build.name}-{test['name']}")


@pytest.mark.parametrize("command, env, protocol, build", programs())
def test_program(command, env, protocol, build):
    done = subprocess.run(command, env={**os.environ, **env}, cwd=build, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          timeout=900, check=False)
    assert done.returncode == 0, done.stdout
    if protocol != "tap":
        return
    plan = re.search(r"^1\.\.(\d+)", done.stdout, re.MULTILINE)
    results = re.findall(r"^(ok|not ok) (\d+)(.*)", done.stdout, re.MULTILINE)
    assert plan and int(plan[1]) == len(results) > 0, done.stdout
    assert all(word == "ok" and "SKIP" not in rest.upper() for word, _, rest in results), done.stdout


def test_threads_are_known():
    """Whatever can start a thread is in the suite "threads": ThreadSanitizer looks at it."""
    listed = json.loads(subprocess.run(["meson", "introspect", "--tests", BUILDS[0]], capture_output=True, check=True).stdout)
    start, known = set(), set()
    for test in listed:
        if BUILDS[0] not in pathlib.Path(test["cmd"][0]).parents:
            continue  # a script
        symbols = subprocess.run(["nm", "-D", test["cmd"][0]], capture_output=True, text=True, check=False).stdout
        if " U pthread_create" in symbols:
            start.add(test["name"])
        if any(suite.endswith(":threads") for suite in test["suite"]):
            known.add(test["name"])
    assert known == start
