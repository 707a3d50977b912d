"""The hook of tools/hooks, in a clone of its own: what it looks at, what it runs, what it refuses."""

import os
import pathlib
import re
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
GOOD = "int hook_test(void);\n\nint hook_test(void)\n{\n\treturn 0;\n}\n"
BAD = GOOD.replace("\treturn 0;", "  return   0 ;")

# Programs in place of the real ones: a build takes minutes. They write down what they were asked.
STUBS = {"ninja": 'echo "ninja $*" >>"$ASKED"; exit "${NINJA_ENDS:-0}"',
         "meson": """if [ "$1" = introspect ]; then
	echo "[{\\"name\\": \\"old\\", \\"suite\\": [\\"t:unit\\"], \\"cmd\\": [\\"$PWD/old\\"]},
		{\\"name\\": \\"new\\", \\"suite\\": [\\"t:unit\\"], \\"cmd\\": [\\"$PWD/new\\"]},
		{\\"name\\": \\"slow\\", \\"suite\\": [\\"t:other\\"], \\"cmd\\": [\\"$PWD/new\\"]}]"
else
	echo "meson $*" >>"$ASKED"
	echo "what the test says"
	exit "${TESTS_END:-0}"
fi"""}


VERSION = subprocess.run(["clang-format", "--version"], capture_output=True, text=True, check=True).stdout
LOOKS = re.search(r"version (\d+)", VERSION)[1] == "14"  # another one formats otherwise, and the hook says that it does not look


class Clone:
    def __init__(self, path):
        self.path = path / "clone"
        self.asked = path / "asked"
        self.env = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "ASKED": str(self.asked)}
        self.env.pop("TESTUDO_BUILD", None)
        for name, text in STUBS.items():
            (path / name).write_text(f"#!/bin/sh\n{text}\n")
            (path / name).chmod(0o755)
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", "--depth=1", f"file://{TOP}", self.path], check=True)
        for name in ("tools/hooks/pre-commit", ".clang-format"):  # as they are here, committed or not
            (self.path / name).parent.mkdir(exist_ok=True)
            (self.path / name).write_bytes((TOP / name).read_bytes())
        (self.path / "tools/hooks/pre-commit").chmod(0o755)
        self.git("config", "user.name", "t")
        self.git("config", "user.email", "t@t")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "as it is here", "--allow-empty")
        self.git("config", "core.hooksPath", "tools/hooks")

    def git(self, *words):
        return subprocess.run(["git", *words], cwd=self.path, env=self.env, stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)

    def commit(self, name, text):
        """Return: (was it taken, what was said)"""
        (self.path / name).write_text(text)
        self.git("add", name)
        before = self.git("rev-parse", "HEAD").stdout
        done = self.git("commit", "-m", "a change")
        assert (done.returncode == 0) == (self.git("rev-parse", "HEAD").stdout != before), done.stdout
        return done.returncode == 0, done.stdout

    def builds(self):
        """Give it a build folder, with a test that was linked before they passed and one after that."""
        (self.path / "build").mkdir()
        for name, at in (("build/build.ninja", 1e8), ("old", 1e8), ("build/units-passed", 1e9), ("new", 1.5e9)):
            (self.path / name).write_text("")
            os.utime(self.path / name, (at, at))

    def was_asked(self):
        return self.asked.read_text().splitlines() if self.asked.exists() else []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Clone(tmp_path_factory.mktemp("hooks"))


@pytest.fixture
def clone(made):
    start, env = made.git("rev-parse", "HEAD").stdout.strip(), dict(made.env)
    yield made
    made.git("reset", "-q", "--hard", start)
    made.git("clean", "-q", "-x", "-d", "-f")
    made.asked.unlink(missing_ok=True)
    made.env = env


def test_a_badly_formatted_file_is_refused(clone):
    taken, said = clone.commit("base/hook_test.c", BAD)
    assert taken != LOOKS and ("clang-format -i base/hook_test.c" if LOOKS else "the format is not looked at") in said, said
    taken, said = clone.commit("base/hook_test.c", GOOD)
    assert taken and "no build folder" in said, said


def test_what_is_staged_counts(clone):
    (clone.path / "base/hook_test.c").write_text(BAD)
    clone.git("add", "base/hook_test.c")
    (clone.path / "base/hook_test.c").write_text(GOOD)
    assert (clone.git("commit", "-m", "a change").returncode != 0) == LOOKS


def test_units_of_what_changed(clone):
    clone.builds()
    taken, said = clone.commit("base/hook_test.c", GOOD)
    assert taken and "1 of 2 unit tests run" in said, said
    asked = clone.was_asked()
    assert len(asked) == 2 and asked[0].startswith("ninja -C build") and asked[1].startswith("meson test -C build"), asked
    assert asked[1].split()[-1] == "new" and "old" not in asked[1].split() and "slow" not in asked[1].split(), asked


def test_what_passed_is_not_run_again(clone):
    clone.builds()
    assert clone.commit("base/hook_test.c", GOOD)[0]
    taken, said = clone.commit("base/hook_test.c", GOOD.replace("0;", "1;"))
    assert taken and "no unit test is linked anew" in said, said
    assert len([line for line in clone.was_asked() if line.startswith("meson test")]) == 1


@pytest.mark.parametrize("ends, says", [("NINJA_ENDS", "does not build"), ("TESTS_END", "what the test says")])
def test_what_fails_is_refused(clone, ends, says):
    clone.builds()
    clone.env[ends] = "1"
    taken, said = clone.commit("base/hook_test.c", GOOD)
    assert not taken and says in said, said
    clone.env[ends] = "0"
    taken, said = clone.commit("base/hook_test.c", GOOD)
    assert taken and "1 of 2" in said, said


def test_documents_run_nothing(clone):
    clone.builds()
    taken, said = clone.commit("docs/hook_test.md", "text\n")
    assert taken and clone.was_asked() == [], said
