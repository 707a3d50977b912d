"""The fact files of real machines are what from_cpuid.py makes of machines.txt, and the docs know all CPU models."""

import importlib.util
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ROOT / "tests" / "data" / "hosts"


def script():
    spec = importlib.util.spec_from_file_location("from_cpuid", HOSTS / "from_cpuid.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fact_files():
    made = dict(script().all_files())
    told = {path.stem for path in HOSTS.glob("*.json") if '"kvm-cpuid":' in path.read_text()}
    assert told == set(made)
    for name, facts in made.items():
        assert json.loads((HOSTS / f"{name}.json").read_text()) == facts, name


def test_every_machine_has_a_source():
    blocks = (HOSTS / "machines.txt").read_text().split("\nmachine ")[1:]
    assert len(blocks) >= 20
    for block in blocks:
        assert re.search(r"^source (libvirt|Firecracker), tests/\S+$", block, re.M), block.split("\n")[0]


def test_docs_have_every_model():
    text = (ROOT / "docs" / "cpu-models.md").read_text()
    # "`emerald-rapids`, `-v2`" stands for both
    short = {f"{name}{suffix}" for name, suffix in re.findall(r"`([a-z0-9-]+)`, `(-v\d)`", text)}
    names = set(re.findall(r'GUEST_MODEL\("([^"]+)"', (ROOT / "cpuid" / "guest_models.def").read_text()))
    assert [name for name in sorted(names) if f"`{name}`" not in text and name not in short
            and not name.startswith("x86-64-v")] == []
