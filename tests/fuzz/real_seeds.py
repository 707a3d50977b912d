"""
First inputs for the fuzz targets of what migrates, from guests that do: each is started, used, recorded on its way to
another process or read from the file it was saved into, and cut into what each target eats: frames, the description,
each device's state, the sections of vCPUs, clock, chips and mitigations; of RAM, a few pages.
"""

import pathlib
import struct

import faulty
import harness
import moving
import saving

DESTINATION = {faulty.VERDICT, faulty.READY, faulty.ACK}  # who sends the others is the source
DEVICES = ["serial", "virtio-rng", "virtio-blk", "virtio-net"]  # by number: enum rig_kind of device_rig.h
PARTS = ["mitigation", "time", "vcpus", "chips", "all"]  # by number: enum part of fuzz_state.c
CPUS = 2  # RIG_VCPUS of state_rig.h
CHANNEL_BYTES = 24 << 10  # of a data channel, about
MAC = "02:00:00:00:00:01"  # of device_rig.h's tap

# name: (command of the guest, what it says when it is in the middle of it, needs)
GUESTS = {
    "two-cpus": (f"dirty wss=1 cpus={CPUS}", None, ()),
    "disk": ("blk sectors=64 irq=1 end=loop", "done blk", ("disk",)),
    "random": ("rng end=loop", "done rng", ("disk",)),
    "console": ("echoirq", "echo ready", ()),
    "network": ("net op=answer", "net ready", ("disk", "net")),
}


def sections(state):
    """[(name, instance, the section whole, its body)] of a machine's state: migration/state/section.h"""
    found, at = [], 0
    while at < len(state):
        n, = struct.unpack_from("<H", state, at)
        name = state[at + 2:at + 2 + n].decode()
        instance, _, length = struct.unpack_from("<HHI", state, at + 2 + n)
        body = at + 2 + n + 8
        assert body + length <= len(state), f"section {name} is cut short"
        found.append((name, instance, state[at:body + length], state[body:body + length]))
        at = body + length
    return found


def first_instance(name, section):
    """The section as it were of the first device of its kind, the only one that the target has"""
    at = 2 + len(name)
    return section[:at] + b"\0\0" + section[at + 2:]


def few_pages(head, rest, room):
    """A chunk of memory with not more than @room of its pages; its checksums are no longer right."""
    runs, = struct.unpack_from("<H", head, 6)
    table, left = b"", room
    for at in range(0, runs * faulty.RUN, faulty.RUN):
        first, data, zero = struct.unpack_from("<3Q", rest, at)
        while data.bit_count() > left:
            data &= data - 1  # the other pages move up, which does not matter here
        left -= data.bit_count()
        table += struct.pack("<3Q", first, data, zero)
    head = head[:12] + struct.pack("<I", room - left) + head[16:]
    start = runs * faulty.RUN
    return head + table + rest[start:start + (room - left) * faulty.PAGE]


class Corpus:
    """What was found goes to DIR/TARGET/real-NAME-.."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def put(self, target, name, data):
        (self.folder / target).mkdir(parents=True, exist_ok=True)
        (self.folder / target / f"real-{name}").write_bytes(data)

    def put_stream(self, name, head, frames):
        """@frames: [(number, head and payload)] of the control channel, both directions"""
        sides = {"source": [f for f in frames if f[0] not in DESTINATION],
                 "destination": [f for f in frames if f[0] in DESTINATION]}
        for side, sent in sides.items():
            for how in (0xf0, 0xf2):  # checksums left alone, made right
                if sent:
                    data = bytes([how | (side == "source")]) + head + b"".join(data for _, data in sent)
                    self.put("frames", f"{name}-{side}{'-fixed' if how & 2 else ''}", data)
        for number, data in frames:
            if number == faulty.DESCRIPTION:
                self.put("description", name, data[faulty.FRAME_HEAD:])
            elif number == faulty.STATE:
                self.put_state(name, data[faulty.FRAME_HEAD:])

    def put_ram(self, name, chunks):
        """@chunks: {channel: [(head, rest)]} of the data channels, two of them"""
        streams = []
        for number in sorted(chunks):
            whole = b""
            for head, rest in chunks[number]:
                if rest and len(whole) > CHANNEL_BYTES:
                    continue  # what ends a round is always taken
                whole += few_pages(head, rest, 2)
            streams.append(whole)
        length = struct.pack("<H", len(streams[0]))
        for how in (2, 3):  # FIX_CHECKSUMS, and THROUGH_MAP
            self.put("ram", f"{name}-one-{how}", bytes([how]) + length + streams[0])
            self.put("ram", f"{name}-two-{how}", bytes([how | 4]) + length + b"".join(streams))

    def put_state(self, name, state):
        found = sections(state)
        assert found[0][0] == "machine", found[0]
        parts = {part: b"" for part in PARTS[:-1]}
        for i, (kind, instance, whole, body) in enumerate(found[1:], 1):
            if kind == "serial":
                self.put("device", f"{name}-serial", bytes([0]) + body)
            elif kind == "virtio-mmio":
                device = found[i + 1][0]
                pair = first_instance(kind, whole) + first_instance(device, found[i + 1][2])
                self.put("device", f"{name}-{device}", bytes([DEVICES.index(device)]) + pair)
            elif kind not in DEVICES:
                part = kind if kind in parts else "vcpus" if kind.startswith("vcpu-") else "chips"
                parts[part] += whole
        cpus = {instance for kind, instance, _, _ in found if kind == "vcpu-regs"}
        if len(cpus) == CPUS:  # another number would be refused where the second one is due
            parts["all"] = b"".join(parts.values())
            for number, part in enumerate(PARTS):
                self.put("state", f"{name}-{part}", bytes([number, 0]) + parts[part])


def start(work, name, guest, net=None):
    params, word, needs = GUESTS[guest]
    args = ["-d", harness.make_disk(pathlib.Path(work, f"{name}.img"))] if "disk" in needs else []
    if "net" in needs:
        args += ["-n", f"tap=t0,mac={MAC}"]
    g = moving.Guest(work, name, *args, params=params, cpus=CPUS, mem=48, prefix=net.prefix if net else ())
    if word:
        g.wait_console(word)
    else:
        g.wait_beats()
    return g


def save(corpus, work, guest, net=None):
    """A guest in the middle of its work, from the file that it was saved into"""
    with start(work, guest, guest, net) as g:
        saving.saved(g, f"{work}/{guest}.snap")
    raw = pathlib.Path(work, f"{guest}.snap").read_bytes()
    frames = saving.front(f"{work}/{guest}.snap")[0]
    corpus.put_stream(f"saved-{guest}", raw[:faulty.STREAM_HEAD],
                      [(struct.unpack_from("<H", raw, head)[0], raw[head:end]) for _, head, _, end in frames])


def hop(corpus, work, here, name, recorded, policy):
    """@here moves to a new process @name. @recorded: as what, None: nobody looks. Return: where it is then"""
    frames, heads, chunks = [], {}, {}

    def at(number, data):
        frames.append((number, data))
        return data

    def head(channel, data):
        return heads.setdefault(channel, data)

    def chunk(channel, number, head, rest):
        chunks.setdefault(channel, []).append((head, rest))
        return head, rest

    there = moving.Guest(work, name, "--policy", policy, incoming=f"unix:{work}/{name}.in")
    try:
        moving.wait_listening(there)
        with faulty.Proxy(f"unix:{work}/{name}.way", f"unix:{work}/{name}.in", at=at, chunk=chunk, head=head):
            moving.moved(here, there, f"unix:{work}/{name}.way")
        assert here.end() == 0, here.log()
        there.wait_beats(10)
    except BaseException:
        there.__exit__()
        raise
    if recorded:
        corpus.put_stream(recorded, heads[0], frames)
        corpus.put_ram(recorded, chunks)
    return there


def migrate(corpus, work):
    """A guest on its way for the first time, and after some hops"""
    policy = pathlib.Path(work, "policy.yaml")
    policy.write_text(moving.POLICY)
    g = start(work, "hop0", "two-cpus")
    try:
        for number in range(1, 6):
            there = hop(corpus, work, g, f"hop{number}", {1: "first-hop", 5: "fifth-hop"}.get(number), policy)
            g.__exit__()
            g = there
    finally:
        g.__exit__()


def make(folder, work, net):
    """All of them, into @folder. @work: an empty directory; @net: test_net.Network, or None"""
    corpus = Corpus(folder)
    migrate(corpus, work)
    for guest, (_, _, needs) in GUESTS.items():
        if net or "net" not in needs:
            save(corpus, work, guest, net if "net" in needs else None)
