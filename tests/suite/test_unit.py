"""Every unit test program of a build: run once, judged by its TAP lines."""

import json
import os
import pathlib
import re
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILDS = [pathlib.Path(path).resolve()
          for path in os.environ.get("TESTUDO_UNIT_BUILDS", str(TOP / "build")).split(":")]


def programs():
    """(build name, test name, command, environment) of all of Meson's tests in the suite "unit"."""
    for build in BUILDS:
        listed = subprocess.run(["meson", "introspect", "--tests", build], capture_output=True, check=True).stdout
        for test in json.loads(listed):
            if any(suite.endswith("unit") for suite in test["suite"]):
                yield pytest.param(test["cmd"], test["env"], test["protocol"], build, id=f"{build.name}-{test['name']}")


@pytest.mark.parametrize("command, env, protocol, build", programs())
def test_program(command, env, protocol, build):
    done = subprocess.run(command, env={**os.environ, **env}, cwd=build, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          timeout=300, check=False)
    assert done.returncode == 0, done.stdout
    if protocol != "tap":
        return
    plan = re.search(r"^1\.\.(\d+)", done.stdout, re.MULTILINE)
    results = re.findall(r"^(ok|not ok) (\d+)(.*)", done.stdout, re.MULTILINE)
    assert plan and int(plan[1]) == len(results) > 0, done.stdout
    assert all(word == "ok" and "SKIP" not in rest.upper() for word, _, rest in results), done.stdout
