"""Barriers of the emulated CPU, which counts those that it executes (bochs/0003-count-barriers.patch), and guests that
are to cause some."""
import collections
import json
import shlex

from runs import HIDDEN, TIMEOUT_S, debian, guest_command

# IBPB by the host; by guests; VM entries into another VMCS than before; those of them without an IBPB since the entry
# before. A vCPU has a VMCS, and another one for what its guest runs in a nested guest.
Counts = collections.namedtuple("Counts", "host guest switches bare")
LAB_BARRIERS = 0x7e57d000
READ = f"""
for n in 0 1 2 3; do
	dd if=/dev/cpu/0/msr bs=8 count=1 skip=$(({LAB_BARRIERS} / 8 + n)) 2>/dev/null | od -An -tu8
done
"""
MANY = 20  # changes of vCPUs in a second, at least


def _counts(text):
    return Counts(*map(int, text.split()))


def counts(host):
    """The Counts since the @host is up."""
    return _counts(host.check(READ))


def between(before, after):
    return Counts(*(later - earlier for earlier, later in zip(before, after, strict=True)))


def two_vcpus(host, *args, first="0.r.48", policy=None):
    """Two busy vCPUs of one guest on the host's only CPU, for a second or so after vCPU 0 did @first: (Counts of that
    time; what testudo stat says of the vCPUs after it)"""
    if policy is not None:
        host.put(f"version: 1\n{policy}".encode(), "/tmp/policy.yaml")
        args = (*args, "--policy", "/tmp/policy.yaml")
    command = guest_command([first, "0.spin.1000.1b", "0.spin.8000.1b", "0.spin.8000.1b"], "--name", "two", *args, cpus=2)
    said = host.check(f"""
: >/tmp/two.out
{command} >/tmp/two.out 2>&1 & vmm=$!
until [ $(grep -c ^msrs /tmp/two.out) -ge 2 ] || ! kill -0 $vmm; do sleep 0.1; done
{READ}
until [ $(grep -c ^msrs /tmp/two.out) -ge 3 ] || ! kill -0 $vmm; do sleep 0.1; done
{READ}
testudo stat two --json
wait $vmm || cat /tmp/two.out""", TIMEOUT_S)
    print(said)
    numbers, _, stat = said.partition("{")
    numbers = numbers.split()
    assert len(numbers) == 8, said
    seen = between(_counts(" ".join(numbers[:4])), _counts(" ".join(numbers[4:])))
    return seen, json.loads("{" + stat)["mitigation"]["vcpus"]


ROUNDS = 1000  # exits of the innermost guest


def nested(host, *args):
    """A Debian guest with KVM, whose guest halts ROUNDS times: Counts of those."""
    host.check("""mkdir -p /tmp/more/opt && cd /tmp/more && cp /t2/guest/l2 opt
find opt | cpio -o -H newc >/tmp/more.cpio
cat /t2/guest/initrd-kvm /tmp/more.cpio >/tmp/initrd-kvm""")
    host.put(b"version: 1\nnested: shown\n", "/tmp/policy.yaml")
    before = counts(host)
    said, _ = debian(host, *(args or HIDDEN), "--policy", "/tmp/policy.yaml", script=f"/opt/l2 {ROUNDS}",
                     initrd="/tmp/initrd-kvm")
    assert said == f"l2 halted {ROUNDS} times\n", said
    seen = between(before, counts(host))
    print(shlex.join(args), seen)
    return seen
