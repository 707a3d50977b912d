"""The next Debian's kernel, where number 236, the RFC's for KVM_CAP_FORCE_SPEC_CTRL, is another capability."""
from runs import BHI, HIDDEN, expected_hidden, msrs, series


def test_number_is_taken(intel_later):
    """KVM says that it has 236; the query ioctl tells that it is not ours, and the filter is used."""
    status, output = intel_later.run("/t2/bin/abi 0x407 236")
    assert status != 0
    assert "capability of the system: the answer is 0x1," in output, "KVM_CAP_PRE_FAULT_MEMORY"
    assert "FAIL query:" in output

    run = msrs(intel_later, series([1, 0x401, 0]), *HIDDEN)
    assert run.seen == expected_hidden([1, 0x401, 0])
    assert run.report["backend"]["name"] == "msr-filter"
    assert run.held() & BHI and run.effective() == (run.held(), "read back")
    why = {trial["name"]: trial["why"] for trial in run.report["backend"]["tried"]}["force-spec-ctrl"]
    assert "its query ioctl is unknown" in why
