"""Barriers of the emulated CPU, which counts those that it executes (bochs/0003-count-barriers.patch), and guests that
are to cause some."""
import collections
import json
import shlex

from background import REFUSED
from runs import HIDDEN, TIMEOUT_S, debian, guest_command

# IBPB by the host; by guests; VM entries into another VMCS than before on that CPU; those of them without an IBPB there
# since the entry before; entries into a VMCS that was entered on another CPU before; those without an IBPB, likewise.
# A vCPU has a VMCS, and another one for what its guest runs in a nested guest.
Counts = collections.namedtuple("Counts", "host guest switches bare moves bare_moves")
LAB_BARRIERS = 0x7e57d000
READ = f"""
for n in 0 1 2 3 4 5; do
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
    return _with_stat(said)


def _with_stat(said):
    """What was READ twice, and then testudo stat --json."""
    numbers, _, stat = said.partition("{")
    numbers, half = numbers.split(), len(Counts._fields)
    assert len(numbers) == 2 * half, said
    seen = between(_counts(" ".join(numbers[:half])), _counts(" ".join(numbers[half:])))
    return seen, json.loads("{" + stat)["mitigation"]["vcpus"]


TURNS = 20  # there and back


def moving_vcpu(host, isolation, first="0.r.48"):
    """A busy vCPU, which did @first, is moved to the host's second CPU and back, TURNS times: as two_vcpus(). All else
    runs on the first, where Linux has barriers of its own when it changes from one process to another."""
    host.put(f"version: 1\nisolation: {{{isolation}}}\n".encode(), "/tmp/policy.yaml")
    command = guest_command([first, "0.spin.4000000.1b"], "--name", "mover", "--policy", "/tmp/policy.yaml")
    said = host.check(f"""
: >/tmp/mover.out
taskset -p 1 $$ >/dev/null
{command} >/tmp/mover.out 2>&1 & vmm=$!
until [ $(grep -c ^msrs /tmp/mover.out) -ge 1 ] || ! kill -0 $vmm; do sleep 0.1; done
vcpu=$(grep -lx vcpu0 /proc/$vmm/task/*/comm) && vcpu=${{vcpu%/comm}} && vcpu=${{vcpu##*/}}
turn() {{
	for mask in 2 1; do taskset -p $mask $vcpu >/dev/null && sleep 0.02; done
}}
turn; turn
{READ}
for n in $(seq {TURNS}); do turn; done
{READ}
testudo stat mover --json
testudo stop mover --force >/dev/null
wait $vmm || true""", TIMEOUT_S)
    print(isolation, first, said)
    return _with_stat(said)


ROUNDS = 1000  # exits of the innermost guest


NESTED_POLICY = "version: 1\nnested: shown\n"


def nested(host, *args):
    """A Debian guest with KVM, whose guest halts ROUNDS times: Counts of those; the guest's report"""
    host.check("""mkdir -p /tmp/more/opt && cd /tmp/more && cp /t2/guest/l2 opt
find opt | cpio -o -H newc >/tmp/more.cpio
cat /t2/guest/initrd-kvm /tmp/more.cpio >/tmp/initrd-kvm""")
    host.put(NESTED_POLICY.encode(), "/tmp/policy.yaml")
    before = counts(host)
    said, look = debian(host, *(args or HIDDEN), "--policy", "/tmp/policy.yaml", script=f"/opt/l2 {ROUNDS}",
                     initrd="/tmp/initrd-kvm")
    assert said == f"l2 halted {ROUNDS} times\n", said
    seen = between(before, counts(host))
    print(shlex.join(args), seen)
    return seen, look.report


def nested_steps(steps):
    """(row, verdict) of the table NESTED"""
    return [(step["row"], step["verdict"]) for step in steps if step["table"] == "nested"]


def nested_verdict(host, report, row, verdict):
    """The guest of nested() was told that @row of NESTED applies, or nothing with None; so it is offline, by the host's
    fact file, and strict refuses where the guest was warned."""
    wanted = [(row, verdict)] if row else []
    assert nested_steps(report["vcpus"][0]["steps"]) == wanted, report["vcpus"][0]["steps"]
    host.check("testudo host --json >/tmp/facts.json")
    explain = "testudo policy explain --host /tmp/facts.json --policy /tmp/policy.yaml --json"
    assert nested_steps(host.json(explain)["decision"]["steps"]) == wanted
    host.put(f"{NESTED_POLICY}strict: on\n".encode(), "/tmp/policy.yaml")
    status, said = host.run(explain)
    assert nested_steps(json.loads(said)["decision"]["steps"]) == ([(row, "refuse")] if row else [])
    ran, _ = host.run("testudo run --policy /tmp/policy.yaml -k /t2/guest/guest.elf -p hello")
    assert (status, ran) == ((REFUSED, REFUSED) if row else (0, 0))
