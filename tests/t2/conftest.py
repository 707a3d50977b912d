"""Emulated hosts as fixtures: one a session, shared by all the tests that ask for it."""
import os
import pathlib
import socket

import pytest

from host import EmulatedHost

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TESTUDO_BUILD", TOP / "build"))


def emulated_host(kind, work, **options):
    vmm = os.environ.get("T2_VMM", "testudo")
    testudo = BUILD / "vmm" / "testudo"
    assert vmm != "testudo" or testudo.exists(), f"{testudo} is not built; run tools/test or 'ninja -C {BUILD}'"
    with EmulatedHost(kind, work, testudo=testudo if testudo.exists() else None,
                      with_qemu=vmm == "qemu", **options) as host:
        yield host


def built(name):
    """The path of a file of the build."""
    path = BUILD / name
    assert path.exists(), f"{path} is not built; run tools/test or 'ninja -C {BUILD}'"
    return str(path)


@pytest.fixture(scope="session")
def guest_report():
    """The program that reports in a guest whose kernel cannot; for the programs of EmulatedHost.boot()."""
    return built("tools/guest-report/testudo-guest-report")


@pytest.fixture(scope="session")
def xstate():
    """The program that watches over extended state in a guest."""
    return built("tests/t2/xstate")


@pytest.fixture(scope="session")
def kvm_shim():
    """The library that makes a KVM another, as bytes."""
    return pathlib.Path(built("tests/shim/libkvm_shim.so")).read_bytes()


@pytest.fixture(scope="session")
def link():
    """The wire between amd_stock's eth0 and amd_second's."""
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture(scope="session")
def amd_stock(link):
    """A host with an AMD CPU and Debian's own kernel and kvm-amd."""
    yield from emulated_host("amd-stock", BUILD / "t2", link=link[0])


@pytest.fixture(scope="module")
def amd_second(link):
    """Another one of the same kind; an emulated host takes a CPU of this machine, so it lives no longer than needed."""
    yield from emulated_host("amd-stock", BUILD / "t2" / "second", link=link[1])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    host = getattr(item, "funcargs", {}).get("amd_stock")
    if report.failed and host:
        report.sections.append((f"console of the emulated host, all of it in {host.log}", host.console()[-2000:]))
