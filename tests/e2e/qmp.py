"""A QMP client of nothing but the standard library, as far from ours as can be."""

import array
import collections
import json
import os
import socket


class Error(RuntimeError):
    """An error answer: class and description."""

    def __init__(self, answer):
        self.kind, self.text = answer["class"], answer["desc"]
        super().__init__(f"{self.kind}: {self.text}")


class Client:
    """A connection to the control socket at @path."""

    def __init__(self, path, timeout=20, negotiate=True):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))  # with a timeout, a full backlog would be an error
        self.sock.settimeout(timeout)
        self.unread = b""
        self.events = collections.deque()
        self.n = 0
        self.greeting = None
        if negotiate:
            self.greeting = self.message()
            self.execute("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def message(self):
        """The next message; None at the end of the connection."""
        while b"\n" not in self.unread:
            try:
                more = self.sock.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                assert not self.unread, self.unread
                return None
            self.unread += more
        line, self.unread = self.unread.split(b"\n", 1)
        return json.loads(line)

    def answer(self):
        """The next message that is no event; those are kept."""
        while True:
            message = self.message()
            assert message is not None, "the connection was closed"
            if "event" not in message:
                return message
            self.events.append(message)

    def raw(self, data):
        self.sock.sendall(data)

    def execute(self, command, **arguments):
        self.n += 1
        message = {"execute": command, "id": self.n}
        if arguments:
            message["arguments"] = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.raw(json.dumps(message).encode())
        answer = self.answer()
        assert answer["id"] == self.n, answer
        if "error" in answer:
            raise Error(answer["error"])
        return answer["return"]

    def pass_fds(self, command, fds, **arguments):
        """The same with descriptors."""
        message = json.dumps({"execute": command, "arguments": arguments}).encode()
        self.sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        answer = self.answer()
        if "error" in answer:
            raise Error(answer["error"])
        return answer["return"]

    def event(self):
        """The next event; None at the end of the connection."""
        if self.events:
            return self.events.popleft()
        message = self.message()
        assert message is None or "event" in message, message
        return message

    def expect_event(self, name):
        """The next event of that name; others before it are skipped."""
        while True:
            event = self.event()
            assert event is not None, f"the connection ended before {name}"
            if event["event"] == name:
                return event

    def expect_end(self):
        while True:
            if self.message() is None:
                return

    def status(self):
        return self.execute("query-status")["status"]


def socket_path(base, name):
    return os.path.join(base, "testudo", name, "qmp.sock")
