"""Guests that run on while a test does something else in their host: they are moved, saved, and looked at."""
import json
import shlex

from runs import HARDWARE, TIMEOUT_S, hardware

REFUSED = 4  # exit code of testudo run and testudo migrate
WAIT_S = 120


class Guest:
    """A testudo run in the background of @host: /tmp/NAME.console, .log, .json (the report), .pid and .status."""

    def __init__(self, host, name, *args, env=""):
        self.host, self.name = host, name
        command = shlex.join(["testudo", "run", "--name", name, *args])
        print(f"{host.kind}# {env} {command}")
        host.check(f"""rm -f /tmp/{name}.*
(sh -c 'echo $$ >/tmp/{name}.pid; {env} exec "$@"' sh {command} --serial file:/tmp/{name}.console \\
	--mitigation-report /tmp/{name}.json >/tmp/{name}.log 2>&1; echo $? >/tmp/{name}.status) &""")

    def said(self, what):
        return self.host.run(f"cat /tmp/{self.name}.{what} 2>/dev/null")[1].replace("\r", "")

    def until(self, condition, what):
        """Waits for the shell's @condition. What it did last it did before its end, so that is looked at first."""
        status, _ = self.host.run(f"""cd /tmp
exec 2>/dev/null
ended=
while :; do
	[ ! -s {self.name}.status ] || ended=yes
	! {condition} || exit 0
	[ -z "$ended" ] || exit 1
	sleep 0.1
done""", WAIT_S)
        assert status == 0, f"{what}: ended with {self.said('status')}{self.said('log')}{self.said('console')}"

    def console(self, lines):
        """The whole lines of the guest's console once there are so many."""
        self.until(f"[ $(wc -l <{self.name}.console) -ge {lines} ]", f"{lines} lines of the guest")
        said = self.said("console")
        return said[:said.rfind("\n") + 1]

    def beat(self):
        """The guest is alive: (number, text) of its last heartbeat, after three more of them."""
        last = self.console(self.said("console").count("\n") + 3).splitlines()[-1]
        print(last)
        assert last.startswith("beat "), f"{last!r} is no heartbeat:\n{self.said('console')}"
        number, text = last[len("beat "):].split(": ", 1)
        return int(number), text

    def report(self):
        return json.loads(self.said("json"))

    def held(self):
        return int(self.report()["vcpus"][0]["held"]["value"], 16)

    def effective(self):
        return int(self.report()["vcpus"][0]["effective"]["value"], 16)

    def hardware(self):
        """What the register held at all exits since the virtual machine began."""
        text = self.host.check(f"vmm=$(cat /tmp/{self.name}.pid); cat {HARDWARE}")
        print(text)
        return hardware(text, "l1")[0]

    def listens(self, path):
        self.until(f"[ -S {path} ]", f"socket {path}")

    def tell(self, verb, *args, status=0):
        """A command about it, to end with @status; what it says."""
        command = shlex.join(["testudo", verb, self.name, *args])
        got, output = self.host.run(command, TIMEOUT_S)
        told = "".join(line for line in output.splitlines(True) if '"event":"progress"' not in line)
        print(f"{self.host.kind}# {command}\n{told}-> {got}")
        assert got == status, f"{output}{self.said('log')}"
        return output

    def end(self):
        self.host.run(f"until [ -s /tmp/{self.name}.status ]; do sleep 0.1; done", WAIT_S)
        print(self.said("log"))
        return int(self.said("status"))

    def saved(self, path):
        self.tell("save", path)
        assert self.end() == 0
