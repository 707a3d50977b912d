"""Adds up the reports of several pytest runs; prints the line that ends tools/test. Fails if nothing passed."""

import sys
import xml.etree.ElementTree as xml

counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
for path in sys.argv[1:]:
    for suite in xml.parse(path).getroot().iter("testsuite"):
        for name in counts:
            counts[name] += int(suite.get(name, 0))
failed = counts["failures"] + counts["errors"]
passed = counts["tests"] - failed - counts["skipped"]
print(f"{passed} passed, {failed} failed, {counts['skipped']} skipped")
sys.exit(0 if passed and not failed else 1)
