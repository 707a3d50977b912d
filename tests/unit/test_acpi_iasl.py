#!/usr/bin/env python3
"""The ACPI tables judged by ACPICA, the code that guests use: iasl disassembles them without a
complaint, and acpiexec evaluates the DSDT's methods.

usage: test_acpi_iasl.py ACPI_DUMP IASL
"""
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ACPI_DUMP, IASL = (str(Path(arg).resolve()) for arg in sys.argv[1:3])
ACPIEXEC = shutil.which("acpiexec")

SLOTS = 19
VCPUS = (1, 4, 255)
# iasl knows no RSDP by itself; test_acpi.c checks that one byte by byte
TABLES = ("xsdt", "facp", "apic", "dsdt")
COMPLAINT = re.compile(r"\b(error|warning|remark|invalid|unknown|corrupt)", re.IGNORECASE)

FACP_FIELDS = {
    "Hardware Reduced (V5)": "1",
    "Reset Register Supported (V2)": "1",
    "8042 Present on ports 60/64 (V2)": "0",
    "VGA Not Present (V4)": "1",
    "CMOS RTC Not Present (V5)": "1",
    "Value to cause reset": "01",
}


def run(*args, cwd):
    done = subprocess.run(args, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=60, check=False)
    return done.returncode, done.stdout


class Dumped(unittest.TestCase):
    def dump(self, vcpus, slots=0):
        tmp = tempfile.TemporaryDirectory(prefix="acpi")
        self.addCleanup(tmp.cleanup)
        code, text = run(ACPI_DUMP, tmp.name, str(vcpus), hex(slots), cwd=tmp.name)
        self.assertEqual(code, 0, text)
        return Path(tmp.name)

    def disassemble(self, where, table):
        code, text = run(IASL, "-d", table + ".aml", cwd=where)
        self.assertEqual(code, 0, text)
        self.assertIsNone(COMPLAINT.search(text), text)
        dsl = (where / (table + ".dsl")).read_text()
        self.assertNotIn("incorrect", dsl.lower())
        return dsl


class Tables(Dumped):
    def test_disassembly(self):
        for vcpus in VCPUS:
            where = self.dump(vcpus, (1 << SLOTS) - 1)
            for table in TABLES:
                with self.subTest(vcpus=vcpus, table=table):
                    self.disassemble(where, table)

    def test_dsdt_compiles_again(self):
        where = self.dump(1)
        self.disassemble(where, "dsdt")
        code, text = run(IASL, "-we", "-p", "again", "dsdt.dsl", cwd=where)
        self.assertEqual(code, 0, text)
        self.assertIn("0 Errors, 0 Warnings, 0 Remarks", text)

    def test_facp_fields(self):
        dsl = self.disassemble(self.dump(1), "facp")
        for field, value in FACP_FIELDS.items():
            with self.subTest(field=field):
                found = re.search(re.escape(field) + r" : (\w+)", dsl)
                self.assertIsNotNone(found, dsl)
                self.assertEqual(found.group(1), value)

    def test_apic_cpus(self):
        for vcpus in VCPUS:
            with self.subTest(vcpus=vcpus):
                dsl = self.disassemble(self.dump(vcpus), "apic")
                ids = re.findall(r"Local Apic ID : (\w\w)\n", dsl)
                self.assertEqual([int(i, 16) for i in ids], list(range(vcpus)))
                self.assertEqual(dsl.count("Processor Enabled : 1"), vcpus)


@unittest.skipUnless(ACPIEXEC, "SKIPPED: acpiexec is not installed, DSDT methods are not evaluated")
class Methods(Dumped):
    def evaluate(self, where, slots, names):
        (where / "init").write_text(f"\\_SB.SLTS {slots:#x}\n")
        code, text = run(ACPIEXEC, "-fi", "init", "-b", ";".join("execute " + n for n in names),
                         "dsdt.aml", cwd=where)
        self.assertEqual(code, 0, text)
        results = text.split("\nEvaluating ")[1:]
        self.assertEqual(len(results), len(names), text)
        return results

    @staticmethod
    def buffer(text):
        rows = re.findall(r" {4}[0-9A-F]{4}: ((?:[0-9A-F]{2} )+)", text)
        return bytes.fromhex("".join(rows))

    def test_status(self):
        where = self.dump(1)
        names = [f"\\_SB.VR{n:02}._STA" for n in range(SLOTS)]
        for slots in (0, 1, 0x40005, (1 << SLOTS) - 1):
            for n, text in enumerate(self.evaluate(where, slots, names)):
                with self.subTest(slots=hex(slots), slot=n):
                    want = 0xf if slots >> n & 1 else 0
                    found = re.search(r"\[Integer\] = (\w+)", text)
                    self.assertEqual(int(found.group(1), 16), want)

    def test_resources(self):
        """Memory32Fixed with base and length, edge-triggered active-high interrupt, end tag."""
        where = self.dump(1)
        names = [f"\\_SB.VR{n:02}._CRS" for n in range(SLOTS)]
        for n, text in enumerate(self.evaluate(where, 0, names)):
            with self.subTest(slot=n):
                crs = self.buffer(text)
                self.assertEqual(crs[:4], b"\x86\x09\x00\x01")
                self.assertEqual(int.from_bytes(crs[4:8], "little"), 0xd0000000 + n * 0x1000)
                self.assertEqual(int.from_bytes(crs[8:12], "little"), 0x1000)
                self.assertEqual(crs[12:17], b"\x89\x06\x00\x03\x01")
                self.assertEqual(int.from_bytes(crs[17:21], "little"), 5 + n)
                self.assertEqual(crs[21], 0x79)

    def test_ids(self):
        where = self.dump(1)
        names = [f"\\_SB.VR{n:02}._{i}ID" for n in range(SLOTS) for i in "HU"]
        results = self.evaluate(where, 0, names)
        for n in range(SLOTS):
            with self.subTest(slot=n):
                self.assertIn('"LNRO0005"', results[2 * n])
                self.assertIn(f"[Integer] = {n:016X}", results[2 * n + 1])

    def test_legacy_devices(self):
        com1, pevt, s5 = self.evaluate(self.dump(1), 0,
                                       ["\\_SB.COM1._CRS", "\\_SB.PEVT._CRS", "\\_S5"])
        self.assertEqual(self.buffer(com1)[:8], b"\x47\x01\xf8\x03\xf8\x03\x01\x08")
        self.assertEqual(self.buffer(com1)[8:17], b"\x89\x06\x00\x03\x01\x04\x00\x00\x00")
        self.assertEqual(self.buffer(pevt)[:8], b"\x47\x01\x05\x05\x05\x05\x01\x01")
        self.assertIn(f"[Integer] = {5:016X}", s5)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
