"""What machine a benchmark ran on: printed above every table, since figures move with it."""
import os
import pathlib
import subprocess


def read(path):
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError:
        return "?"


def cpu_model():
    for line in read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "?"


def first_line(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()[0]
    except (OSError, IndexError):
        return "not installed"


def print_facts():
    kvm = [name for name in ("kvm_intel", "kvm_amd", "kvm_pvm") if os.path.isdir(f"/sys/module/{name}")]
    print(f"- CPU: {cpu_model()}, {os.cpu_count()} online\n"
          f"- host kernel: {os.uname().release}; KVM module: {', '.join(kvm) or 'not named by sysfs'}\n"
          f"- load before: {' '.join(f'{load:.2f}' for load in os.getloadavg())}\n"
          f"- peer: {first_line('qemu-system-x86_64', '--version')}\n")
