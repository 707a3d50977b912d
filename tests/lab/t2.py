"""Makes the modules of tests/t2, whose hosts these are but for the emulator, importable by name."""
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
T2 = HERE.parent / "t2"
sys.path.insert(0, str(T2))
