"""`testudo save`, and the file that it makes."""

import json
import os
import struct
import subprocess

import harness

SAVED, USAGE, BAD_INPUT, REFUSED, NOT_SAVED = 0, 2, 3, 4, 5
MIB = 1 << 20
FRAMES = ["hello", "description", "memory", "state", "checksums", "finish"]


def command(g, path, *args):
    return [str(harness.TESTUDO), "save", g.name, str(path), "--json", *map(str, args)]


def save(g, path, *args):
    """testudo save. Return: (exit code, [events], standard error)"""
    p = subprocess.run(command(g, path, *args), env=g.env, cwd=g.work, stdin=subprocess.DEVNULL, capture_output=True,
                       timeout=harness.patience(120))
    return p.returncode, [json.loads(line) for line in p.stdout.decode().splitlines()], p.stderr.decode()


def saved(g, path, *args):
    code, events, err = save(g, path, *args)
    assert code == SAVED, f"exit code {code}\n{err}\n{events}\n{g.story()}"
    assert events[-1]["event"] == "completed"
    assert not os.path.exists(f"{path}.tmp")
    return events[-1]


def front(path):
    """[(name, start of the head, start of the payload, end)], offset and size of RAM"""
    frames, at = [], 16
    with open(path, "rb") as f:
        assert f.read(8) == b"TSTUDOMG"
        for name in FRAMES:
            f.seek(at)
            _, _, length = struct.unpack("<HHI", f.read(8))
            frames.append((name, at, at + 16, at + 16 + length))
            at += 16 + length
        f.seek(frames[2][2])
        how, _, size, offset = struct.unpack("<HHQQ", f.read(20))
    assert how == 1 and offset % (2 * MIB) == 0 and offset >= at
    assert os.stat(path).st_size == offset + size
    return frames, offset, size
