"""What machine a benchmark ran on: printed above every table, since figures move with it."""
import os
import pathlib
import subprocess
import sys


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


def need(build, *files, kvm=True):
    """End in one line when a file of the build folder, or /dev/kvm, is not there."""
    for name in ("vmm/testudo", *files):
        if not os.path.exists(f"{build}/{name}"):
            sys.exit(f"{build}/{name} is missing: tools/build {build}")
    try:
        if kvm:
            os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as e:
        sys.exit(f"/dev/kvm: {e.strerror}; this benchmark needs a host with KVM, and the right to use it")


def where():
    """Is this machine a guest itself? In one that is emulated, ratios say a little and times nothing."""
    virt = first_line("systemd-detect-virt")
    if virt == "qemu":
        return "qemu: an emulated host, figures mean nothing elsewhere"
    return "not told, no systemd-detect-virt here" if virt == "not installed" else virt


def print_facts():
    kvm = [name for name in ("kvm_intel", "kvm_amd", "kvm_pvm") if os.path.isdir(f"/sys/module/{name}")]
    print(f"- CPU: {cpu_model()}, {os.cpu_count()} online\n"
          f"- host kernel: {os.uname().release}; KVM module: {', '.join(kvm) or 'not named by sysfs'}\n"
          f"- in a guest of: {where()}\n"
          f"- load before: {' '.join(f'{load:.2f}' for load in os.getloadavg())}\n"
          f"- peer: {first_line('qemu-system-x86_64', '--version')}\n")
