"""A network that does harm: it stands between the two sides of a migration and knows its frames."""

import os
import pathlib
import select
import socket
import struct
import threading
import time

import harness
import moving

HELLO, DESCRIPTION, VERDICT, MEMORY, ROUND_END, STATE, FINISH, READY, COMMIT, ACK, FAIL = range(1, 12)
CLOCK = 14
NAMES = {"hello": HELLO, "description": DESCRIPTION, "verdict": VERDICT, "round-end": ROUND_END, "state": STATE,
         "finish": FINISH, "ready": READY, "commit": COMMIT, "ack": ACK}
STREAM_HEAD, SESSION, FRAME_HEAD, RAM_HEAD, RUN, PAGE = 16, 8, 16, 32, 24, 4096
SPLIT_FINE = 2 * PAGE

def crc32c_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82f63b78 if n & 1 else 0)
        table.append(n)
    return table

TABLE = crc32c_table()

def crc32c(data):
    c = 0xffffffff
    for b in data:
        c = TABLE[(c ^ b) & 255] ^ c >> 8
    return c ^ 0xffffffff

def frame(kind, payload, flags=1, length=None):
    """A frame that is well made, as far as it was asked for."""
    head = struct.pack("<HHII", kind, flags, len(payload) if length is None else length, crc32c(payload))
    return head + struct.pack("<I", crc32c(head)) + payload

def flipped(data, at):
    data = bytearray(data)
    data[at] ^= 0x10
    return bytes(data)

class Cut(Exception):
    """The connections end here, after the argument if there is one."""

class Gone(OSError):
    """The side that something was to be passed on to has closed its connection."""

class Proxy:
    """
    Listens at @uri and passes everything on to @to, frame by frame. @at(kind, data): called for each frame of the
    control channel before it goes on; returns the bytes to send in its place. @chunk(channel, number, head, rest): the
    same for chunks of memory, @number from 0. Both may raise Cut, call self.stall() or wait.
    @backwards: so many connections are passed on together, the last one first.
    @split: bytes that are sent at a time; behind the first SPLIT_FINE of a frame or chunk, 1009 at least.
    @fin: a cut is an orderly end, not a reset.
    """

    def __init__(self, uri, to, at=None, chunk=None, head=None, split=0, fin=False, backwards=1):
        self.to, self.at, self.chunk, self.head, self.split, self.fin = to, at, chunk, head, split, fin
        self.backwards = backwards
        self.passed = set()  # kinds of frames
        self.closing = threading.Event()
        self.stalled = threading.Event()
        self.error = None
        self.socks, self.threads = [], []
        self.lock = threading.Lock()
        if uri.startswith("unix:"):
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(uri[5:])
        else:
            self.listener = socket.create_server(moving.address_of(uri))
        self.path = uri[5:] if uri.startswith("unix:") else None
        self.listener.listen(32)
        self.start(self.accept)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self, fn, *args):
        t = threading.Thread(target=fn, args=args, daemon=True)
        self.threads.append(t)
        t.start()

    def close(self):
        self.closing.set()
        self.listener.close()
        if self.path and os.path.exists(self.path):
            os.unlink(self.path)
        self.cut()
        for t in self.threads:
            t.join(harness.patience(10))
            assert not t.is_alive()

    def cut(self):
        """All connections end."""
        with self.lock:
            for s in self.socks:
                try:
                    if not self.fin and s.family == socket.AF_INET:
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                s.close()
            self.socks.clear()

    def stall(self):
        """Nothing moves any more, on no channel, until this network is taken down."""
        self.stalled.set()
        self.closing.wait()
        raise Cut

    def connect(self):
        if self.to.startswith("unix:"):
            s = socket.socket(socket.AF_UNIX)
            s.connect(self.to[5:])
            return s
        return socket.create_connection(moving.address_of(self.to))

    def accept(self):
        held = []
        while not self.closing.is_set():
            try:
                if not select.select([self.listener], [], [], 0.05)[0]:
                    continue
                held.append(self.listener.accept()[0])
            except (OSError, ValueError):
                continue
            if len(held) == self.backwards:
                for a in reversed(held):
                    self.pass_on(a)
                held = []

    def pass_on(self, a):
        try:
            b = self.connect()
        except OSError:
            a.close()
            return
        with self.lock:
            self.socks += [a, b]
        try:
            self.start_pair(a, b)
        except (OSError, EOFError, Cut):
            a.close()
            b.close()

    def start_pair(self, a, b):
        """The head tells what it is; passed on in the order of the connections."""
        head = self.take(a, STREAM_HEAD)
        number = struct.unpack_from("<H", head, 10)[0]
        if number:
            head += self.take(a, SESSION)
        self.send(b, self.head(number, head) if self.head else head)
        there, back = threading.Event(), threading.Event()
        if number:
            self.start(self.pump, a, b, lambda: self.one_chunk(a, b, number), there, back)
        else:
            self.control = b  # towards the destination
            self.start(self.pump, a, b, lambda: self.one_frame(a, b), there, back)
        self.start(self.pump, b, a, lambda: self.one_frame(b, a), back, there)

    def pump(self, a, b, one, done, other):
        """Pass on what comes from @a to @b. @done: set at its end; @other: that of the way back"""
        self.counts = getattr(self, "counts", {})
        try:
            while True:
                one()
        except Cut as e:
            if e.args:
                b.sendall(e.args[0])
                time.sleep(0.02)
            self.cut()
        except EOFError:  # passed on, in one direction only
            self.shut(b, socket.SHUT_WR)
        except OSError as e:  # what came the other way before is still to be heard
            done.set()
            if isinstance(e, Gone):
                other.wait(5)  # all of it, up to the end
            else:
                time.sleep(0.05)
            self.shut(a, socket.SHUT_RDWR)
            self.shut(b, socket.SHUT_RDWR)
        except Exception as e:  # of the test itself
            self.error = e
            self.cut()
        finally:
            done.set()

    @staticmethod
    def shut(s, how):
        try:
            s.shutdown(how)
        except OSError:
            pass

    def take(self, s, n):
        data = b""
        while len(data) < n:
            part = s.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def send(self, s, data):
        if self.stalled.is_set():
            self.closing.wait()
            raise Cut
        at, size = 0, self.split or len(data)
        try:
            while at < len(data):
                s.sendall(data[at:at + size])
                at += size
                if at >= SPLIT_FINE:
                    size = max(size, 1009)
        except OSError as e:
            raise Gone(*e.args) from e

    def one_frame(self, a, b):
        head = self.take(a, FRAME_HEAD)
        kind, _, length = struct.unpack_from("<HHI", head)
        data = head + self.take(a, length)
        if self.at:
            data = self.at(kind, data)
        self.send(b, data)
        self.passed.add(kind)

    def one_chunk(self, a, b, channel):
        head = self.take(a, RAM_HEAD)
        _, _, runs, _, pages = struct.unpack_from("<IHHII", head)
        rest = self.take(a, runs * RUN + pages * PAGE)
        if self.chunk:
            number = self.counts[channel] = self.counts.get(channel, -1) + 1
            head, rest = self.chunk(channel, number, head, rest)
        self.send(b, head + rest)

def on(name, action):
    """at= of a Proxy: @action(data) for the first frame called @name"""
    done = []

    def at(kind, data):
        if kind != NAMES[name] or done:
            return data
        done.append(True)
        return action(data)

    return at

def open_files(pid):
    """Names of what a process has open, less what comes and goes: VMs that were tried are closed beside the guest."""
    names = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            name = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if not name.startswith("anon_inode:kvm"):
            names.append(name.split(":")[0] if name.startswith(("socket", "pipe")) else name)
    return sorted(names)

def threads(pid):
    """Names of those that stay: the one that closes what a start needed goes when it has."""
    names = []
    for path in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            names.append((path / "comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):
            pass
    return sorted(name for name in names if name != "vm-closer")

def wait_until(condition, what, timeout=15):
    harness.until(condition, lambda: what, timeout)
