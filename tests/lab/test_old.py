"""Stock Debian kernel on a CPU from before BHI_DIS_S, where the short software sequence is enough."""
import json

from runs import BHI, expected, msrs, series


def test_host(intel_old):
    assert "BHI: SW loop" in intel_old.check("cat /sys/devices/system/cpu/vulnerabilities/spectre_v2")
    here = json.loads(intel_old.check("testudo host --json"))
    assert here["facts"]["vendor"] == "GenuineIntel"
    assert not int(here["facts"]["cpuid-7-2-edx"], 16) & 0x10, "BHI_CTRL"


def test_nothing_is_held(intel_old):
    run = msrs(intel_old, series([1, 0]))
    assert run.seen == expected([1, 0])
    assert run.report["verdict"] == "allow" and not run.held() & BHI
    assert [step["row"] for step in run.vcpu()["steps"] if step["table"] == "bhi"] == [15], "the short loop works"
