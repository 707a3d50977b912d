"""A test command that was started with signals ignored or blocked tests the same as any other."""
import pathlib
import re
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
IGNORED = [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP, signal.SIGCHLD]
BLOCKED = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


def test_children_have_default_signals():
    status = subprocess.run(["cat", "/proc/self/status"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert re.findall(r"^(SigBlk|SigIgn):\s*0*([1-9a-f]\w*)$", status, re.M) == []


def as_under_nohup():
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)


@pytest.mark.parametrize("folder", [".", "tests/suite"])
def test_started_without_signals(folder):
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__,
                           "-k", "test_children_have_default_signals"], cwd=ROOT / folder, preexec_fn=as_under_nohup,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout


def test_the_test_command_goes_on_to_ignore_them():
    """Who asked for that by nohup gets it: here the hang-up comes in mid-test."""
    program = ("import os, signal\n"
               "from importlib.machinery import SourceFileLoader\n"
               f"SourceFileLoader('conftest', {str(ROOT / 'tests/conftest.py')!r}).load_module().pytest_configure()\n"
               "os.kill(os.getpid(), signal.SIGHUP)\n"
               "print('goes on')\n")
    done = subprocess.run([sys.executable, "-W", "ignore", "-B", "-c", program], preexec_fn=as_under_nohup,
                          stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout == "goes on\n" and done.returncode == 0
