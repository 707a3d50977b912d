"""Two hosts one after the other, the first older, and a disk that goes with the guest from one to the other."""
import json

MOUNT = "mkdir -p /carried && mount -t ext4 /dev/sda /carried"


def test_carried_facts_decide(lab):
    """What the old host says about itself, carried to the new one, is taken there as where a guest comes from."""
    old = lab("intel-old")
    old.check(f"{MOUNT} && testudo host --json >/carried/facts.json && umount /carried")
    facts = old.check("testudo host --json")

    new = lab("intel-stock")
    assert new.check(f"{MOUNT} && cat /carried/facts.json") == facts
    answer = json.loads(new.check("testudo policy explain --from /carried/facts.json --guest reported=short --json"))
    assert answer["decision"]["verdict"] == "allow, with forced bits"
    assert "BHI_DIS_S" in answer["decision"]["held-at-1"]
    new.check("umount /carried")
