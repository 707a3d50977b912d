"""Our series on 6.12, where 236, the RFC's number, is another capability: the same rules, which testudo finds."""
from runs import BHI, HIDDEN, IBRS, expected, keeps_abi, series, watched

CAP = 0x5343


def test_abi(intel_renumbered):
    keeps_abi(intel_renumbered, CAP)


def test_number_is_found(intel_renumbered):
    run, (look,) = watched(intel_renumbered, [series([1, 0, 1])], *HIDDEN)
    assert run.report["backend"]["name"] == "force-spec-ctrl per vCPU"
    why = {trial["name"]: trial["why"] for trial in run.report["backend"]["tried"]}["force-spec-ctrl per vCPU"]
    assert str(CAP) in why, why
    assert run.seen == expected([1, 0, 1])
    assert look.hardware[0]["all"] & BHI and look.hardware[0]["last"] == IBRS | BHI, look
