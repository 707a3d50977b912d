"""A process that has a guest's control socket, and answers by a table or not at all: for the commands that talk to guests,
where no KVM is needed."""

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import harness

GREETING = {"QMP": {"version": {"qemu": {"major": 0, "minor": 0, "micro": 0}, "package": "fake"}, "capabilities": []}}


@contextlib.contextmanager
def guest(work, name="g", answers=None, backlog=128):
    """@answers: what each command returns, or {"error": TEXT}; None: nobody takes the connection."""
    path = pathlib.Path(work, "testudo", name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700)
    words = [sys.executable, __file__, str(path), json.dumps(answers), str(backlog)]
    p = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout.readline() == "listens\n"
        yield p
    finally:
        p.send_signal(signal.SIGKILL)
        p.wait()
        p.stdout.close()


def stop(p):
    p.send_signal(signal.SIGSTOP)
    harness.until(lambda: pathlib.Path(f"/proc/{p.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T",
                  lambda: "it runs on")


def serve(s, answers):
    decoder = json.JSONDecoder()
    while True:
        c = s.accept()[0]
        c.sendall(json.dumps(GREETING).encode())
        text = ""
        with contextlib.suppress(ConnectionError):
            while data := c.recv(65536):
                text += data.decode()
                while text.strip():
                    try:
                        command, end = decoder.raw_decode(text.lstrip())
                    except ValueError:
                        break
                    text = text.lstrip()[end:]
                    value = answers.get(command["execute"], {})
                    if isinstance(value, dict) and "then" in value:  # one after the other, the last for ever
                        value = value["then"].pop(0) if len(value["then"]) > 1 else value["then"][0]
                    if isinstance(value, dict) and "error" in value:
                        answer = {"error": {"class": "GenericError", "desc": value["error"]}}
                    else:
                        answer = {"return": value}
                    c.sendall(json.dumps(answer).encode() + b"\n")
        c.close()


def main():
    path, answers, backlog = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    # the lock is held for life: else the next guest to start removes it all
    with open(f"{path}/lock", "w", encoding="ascii") as lock, socket.socket(socket.AF_UNIX) as s:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(os.getpid(), file=lock, flush=True)
        s.bind(f"{path}/qmp.sock")
        s.listen(backlog)
        print("listens", flush=True)
        if answers is None:
            signal.pause()
        serve(s, answers)


if __name__ == "__main__":
    main()
