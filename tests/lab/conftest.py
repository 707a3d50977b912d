"""Emulated hosts as fixtures. A test takes lab(KIND), or the fixture of that name, and gets a host as in tests/t2.

One is up at a time, for Bochs does not know how to wait: it burns a processor while its host is idle. The tests of one
kind are therefore in one file, and files are named in an order that starts each host once."""
import os
import pathlib

import pytest

import t2  # noqa: F401  (makes the next ones findable)
import files
import host as t2host
import intelhost

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TESTUDO_BUILD", TOP / "build"))
CARRIED_MIB = 256


class Lab:
    """The host that is up, and the disk that goes from one host to the next."""

    def __init__(self):
        self.current = None
        self.absent = {}
        self.work = BUILD / "lab"
        self.work.mkdir(parents=True, exist_ok=True)
        self.disk = self.work / "carried.ext4"
        files.ext4_image(self.disk, {}, spare_mib=CARRIED_MIB)

    def __call__(self, kind):
        if self.current and self.current.kind == kind:
            return self.current
        self.close()
        if kind not in self.absent:
            try:
                self.current = self._host(kind)
                return self.current
            except files.FilesError as error:
                self.absent[kind] = str(error)
        pytest.skip(self.absent[kind])

    def _host(self, kind):
        if kind in t2host.KINDS:
            return t2host.EmulatedHost(kind, self.work, testudo=BUILD / "vmm" / "testudo")
        return intelhost.with_build(kind, self.work, BUILD, disks=[self.disk])

    def close(self):
        if self.current:
            self.current.close()
        self.current = None


@pytest.fixture(scope="session")
def lab():
    hosts = Lab()
    yield hosts
    hosts.close()


def kind_fixture(kind):
    @pytest.fixture(name=kind.replace("-", "_"), scope="module")
    def fixture(lab):
        return lab(kind)
    return fixture


(amd_stock, intel_old, intel_stock, intel_later, intel_newest, intel_newest_patched, intel_patched,
 intel_renumbered, intel_two) = map(kind_fixture, (
     "amd-stock", "intel-old", "intel-stock", "intel-later", "intel-newest", "intel-newest-patched", "intel-patched",
     "intel-renumbered", "intel-two"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    lab_used = getattr(item, "funcargs", {}).get("lab")
    if report.failed and lab_used and lab_used.current:
        current = lab_used.current
        report.sections.append((f"console of {current.kind}, all of it in {current.log}", current.console()[-2000:]))
