"""Adds up the reports of several pytest runs: what each proved, the reasons of what was skipped, and the line that ends
tools/test. Fails if nothing passed."""

import collections
import pathlib
import sys
import xml.etree.ElementTree as xml

PROVES = {  # by the name of the report
    "suite": "units right in each build; format, includes, purity, documents",
    "lint": "clang-tidy and gcc's analyzer find nothing that is not explained",
    "races": "units that start threads, under ThreadSanitizer",
    "fuzz": "no input of strangers breaks a parser or a device",
    "no-kvm": "what testudo decides, reads and says without a guest",
    "quick": "guests start, see their machine, and end as they should",
    "kvm-intel": "testudo on a KVM that shows an Intel host; each back end; moves, files, faults",
    "kvm-amd": "the same on a KVM that shows an AMD host",
    "kvm-sanitized": "the same on the plain KVM, with every access to memory checked",
    "emulated-host": "Debian's kernels as guests on mainline kvm-amd; two hosts on a network",
    "emulated-intel-hosts": "what the hardware's SPEC_CTRL held, with Debian's kernels and with our patches",
}
COUNTS = ("tests", "failures", "errors", "skipped")


def tally(path):
    """({count's name: number}, seconds, reasons of skips) of one report"""
    counts, seconds, reasons = dict.fromkeys(COUNTS, 0), 0.0, []
    for suite in xml.parse(path).getroot().iter("testsuite"):
        for name in COUNTS:
            counts[name] += int(suite.get(name, 0))
        seconds += float(suite.get("time", 0))
        reasons += [skip.get("message", "") for skip in suite.iter("skipped")]
    return counts, seconds, reasons


def main(paths):
    passed = failed = skipped = 0
    why = collections.Counter()
    print(f"\n{'part':<22}{'passed':>7}{'failed':>7}{'skipped':>8}{'s':>6}  what it proves")
    for path in map(pathlib.Path, paths):
        counts, seconds, reasons = tally(path)
        bad = counts["failures"] + counts["errors"]
        good = counts["tests"] - bad - counts["skipped"]
        name = path.stem.removeprefix("report-")
        print(f"{name:<22}{good:>7}{bad:>7}{counts['skipped']:>8}{seconds:>6.0f}  {PROVES.get(name, '')}")
        passed, failed, skipped = passed + good, failed + bad, skipped + counts["skipped"]
        why.update(reasons)
    for reason, number in why.most_common():
        print(f"skipped {number}: {reason}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
