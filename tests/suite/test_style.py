"""What the eye should not have to check: format, who includes whom, purity, and that the documents name every option."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("TESTUDO_BUILD", TOP / "build")).resolve()

ROOMS = ["base", "control", "cpuid", "msr", "policy", "migration", "devices", "vmm"]
PURE = ["cpuid", "msr"]
IMPURE = re.compile(r"#\s*include\s*<(?:sys/|fcntl|unistd|pthread|threads|signal|time|poll|linux/kvm)|"
                    r"\b(?:malloc|calloc|realloc|v?f?printf|f?puts|f?open|fread|fwrite|ioctl|log_msg|log_(?:err|warn|info|debug))\s*\(")
CLANG_FORMAT = 14  # others break lines elsewhere

# Libraries that read what comes from outside, and the files that put bounds before them.
FOREIGN = {
    r"<libfdt\.h>": ["migration/description/description_read.c", "migration/description/description_write.c"],  # after dtb_check()
    r"\bjson_load\w*\(": ["control/qmp_client.c", "control/qmp_server.c", "policy/json_read.c"],  # length and depth
    r"\byaml_parser_set_input\w*\(": ["policy/policy_parse.c"],  # length; the reader refuses what it does not know at once
}


def sources(*suffixes, rooms=("",)):
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=TOP, capture_output=True,
                            text=True, check=True).stdout
    return [name for name in listed.split("\0")
            if name.endswith(suffixes) and name.startswith(tuple(rooms)) and (TOP / name).exists()]


def test_format():
    version = subprocess.run(["clang-format", "--version"], capture_output=True, text=True, check=True).stdout
    found = int(re.search(r"version (\d+)", version)[1])
    if found != CLANG_FORMAT:
        pytest.skip(f"clang-format {found} formats otherwise than {CLANG_FORMAT}, which the tree follows")
    done = subprocess.run(["clang-format", "--dry-run", "-Werror", *sources(".c", ".h")], cwd=TOP,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def matrix():
    """{room: the rooms it may include}, as docs/architecture.md prints it."""
    text = (TOP / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([\w/]+)` \|.*\| ([\w/, –]+) \|$", text, re.MULTILINE)
    return {room: set(may.split(", ")) - {"–"} for room, may in rows}


def includes():
    """(source file, the file it includes), both by their paths."""
    found = []
    for name in sources(".c", ".h", rooms=[f"{room}/" for room in ROOMS]):
        found += [(name, other) for other in re.findall(r'^#include "([^"]+/[^"]+)"', (TOP / name).read_text(), re.MULTILINE)]
    assert len(found) > 500
    return found


def test_includes_keep_to_the_matrix():
    may = matrix()
    rooms = {str(pathlib.Path(name).parent) for name, _ in includes()}
    assert rooms <= set(may), "a room without a row in docs/architecture.md"
    used = {room: set() for room in may}
    for name, other in includes():
        used[str(pathlib.Path(name).parent)].add(str(pathlib.Path(other).parent))
    wrong = [f"{room} includes {other}" for room, others in used.items() for other in others - {room} - may[room]]
    assert not wrong
    unused = [f"{room} may include {other} and does not" for room in may for other in may[room] - used[room]]
    assert not unused


def test_matrix_has_no_way_back():
    """No room is reached from itself; a folder's top, which main.c is in too, lends only what includes nothing of it."""
    may = {room: others - {"vmm"} for room, others in matrix().items()}
    left = dict(may)
    while left:
        done = [room for room, others in left.items() if not others & set(left)]
        assert done, f"a circle of rooms within {sorted(left)}"
        for room in done:
            del left[room]


# Two files that are one thing in two halves.
HALVES = [{"devices/virtio/virtio", "devices/virtio/virtq"}, {"vmm/machine/boot/kernel", "vmm/machine/boot/loader"}]


def test_no_circle_of_files():
    graph = {}
    for name, other in includes():
        graph.setdefault(name.rsplit(".", 1)[0], set()).add(other.rsplit(".", 1)[0])

    def reached(start):
        seen, todo = set(), [start]
        while todo:
            for other in graph.get(todo.pop(), set()) - seen:
                seen.add(other)
                todo.append(other)
        return seen
    for name in graph:
        graph[name].discard(name)
    circles = {frozenset({name, *(other for other in reached(name) if name in reached(other))})
               for name in graph if name in reached(name)}
    assert circles <= {frozenset(half) for half in HALVES}, [sorted(circle) for circle in circles]


def test_one_way_to_print_a_number():
    """64 bits by %llu or %llx and a cast, which holds for KVM's __u64, too."""
    found = [name for name in sources(".c", ".h") if re.search(r"\bPRI[diouxX](?:8|16|32|64)\b", (TOP / name).read_text())]
    assert not found


def functions(text):
    """(line of its first brace, lines) of each function of a C file in our format."""
    begin = None
    for number, line in enumerate(text.split("\n"), 1):
        if line == "{":
            begin = number
        elif line == "}" and begin:
            yield begin, number - begin - 1
            begin = None


def test_files_and_functions_are_short():
    """600 lines and 80."""
    long, seen = [], 0
    for name in sources(".c", ".h", rooms=[f"{room}/" for room in ROOMS] + ["tools/"]):
        text = (TOP / name).read_text()
        if text.count("\n") > 600:
            long.append(f"{name}: {text.count(chr(10))} lines")
        for line, lines in functions(text):
            seen += 1
            if lines > 80:
                long.append(f"{name}:{line}: a function of {lines} lines")
    assert seen > 1500 and not long


def test_pure_rooms():
    wrong = []
    for name in sources(".c", ".h", rooms=[f"{room}/" for room in PURE]):
        text = re.sub(r"/\*.*?\*/", "", (TOP / name).read_text(), flags=re.DOTALL)
        wrong += [f"{name}: {found}" for found in IMPURE.findall(text)]
    assert not wrong


@pytest.mark.parametrize("use", FOREIGN)
def test_foreign_bytes_are_bounded_first(use):
    found = [name for name in sources(".c", ".h", rooms=[f"{room}/" for room in ROOMS])
             if re.search(use, (TOP / name).read_text())]
    assert sorted(found) == FOREIGN[use]


def symbols(room, kind):
    """Names that the room's library defines or leaves undefined."""
    option = {"defined": "--defined-only", "undefined": "--undefined-only"}[kind]
    listed = subprocess.run(["nm", "-g", option, "--format=posix", BUILD / room / f"lib{room}.a"],
                            capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^(\w+) [A-Z]", listed, re.MULTILINE))


def test_pure_rooms_link_alone():
    """Nothing is needed but the rooms to the left and the C library's string functions."""
    libc = {"memcpy", "memset", "memcmp", "memmove", "strlen", "strnlen", "strcmp", "strncmp", "strchr", "snprintf",
            "__snprintf_chk", "strcasecmp", "strncasecmp", "strspn", "strcspn", "strncat", "__strncat_chk", "__stack_chk_fail", "__memcpy_chk",
            "_GLOBAL_OFFSET_TABLE_"}
    for number, room in enumerate(PURE):
        here = set().union(*(symbols(left, "defined") for left in ["base", *PURE[:number + 1]]))
        outside = symbols(room, "undefined") - here - libc
        assert not outside, f"{room} needs {outside}"


def test_shell_scripts():
    scripts = [name for name in sources("") if name.startswith(("tools/", ".ci/")) or name.endswith(".bash")]
    scripts = [name for name in scripts if "#!/bin/" in (TOP / name).read_text()[:20] or name.endswith(".bash")]
    assert len(scripts) >= 4
    done = subprocess.run(["shellcheck", *scripts], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    inits = [name for name in sources("-init", "-agent") if name.startswith("tests/t2/")]
    done = subprocess.run(["shellcheck", "-s", "dash", "-e", "SC2187", *inits], cwd=TOP, capture_output=True, text=True,
                          check=False)
    assert inits and done.returncode == 0, done.stdout


# testudo policy has the help of both of its words.
SUBCOMMANDS = ["run", "list", "stat", "pause", "resume", "stop", "migrate", "save", "host", "policy explain"]
OF_EVERY_COMMAND = {"quiet", "help"}  # the manual tells of these once


def options(command):
    """Long options of a subcommand, as its own help, which is its parser's table, lists them."""
    text = subprocess.run([BUILD / "vmm" / "testudo", command.split()[0], "--help"], capture_output=True, text=True,
                          check=True).stdout
    found = set(re.findall(r"^  (?:-\w, |    |  )--([\w-]+)", text, re.MULTILINE))
    assert OF_EVERY_COMMAND <= found
    return found


def completed(line):
    script = (f"source docs/testudo.bash; COMP_WORDS=(testudo {line}); COMP_CWORD={len(line.split())}; _testudo; "
              "printf '%s\\n' \"${COMPREPLY[@]}\"")
    done = subprocess.run(["bash", "-c", script], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done
    return set(done.stdout.split())


def test_every_subcommand_is_looked_at():
    listed = subprocess.run([BUILD / "vmm" / "testudo", "help"], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  ([a-z]+) ", listed, re.MULTILINE)) == \
        {command.split()[0] for command in SUBCOMMANDS} | {"version", "help"}


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_manual_names_every_option(command):
    """Each, and no other, in the section of its subcommand."""
    sections = re.split(r"^\.S[hs] ", (TOP / "docs" / "testudo.1").read_text(), flags=re.MULTILINE)
    own = [text for text in sections if f"testudo {command}" in text.split("\n")[0].split(", ")]
    assert len(own) == 1
    told = set(re.findall(r"^\.It Fl (?:\w , )?-([\w-]+)", own[0], re.MULTILINE))
    assert told | OF_EVERY_COMMAND == options(command)


def test_manual_names_options_of_every_command():
    assert OF_EVERY_COMMAND <= set(re.findall(r"^\.It Fl \w , -([\w-]+)", (TOP / "docs" / "testudo.1").read_text(), re.MULTILINE))


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_completion_names_every_option(command):
    assert completed(f"{command} --") == {f"--{option}" for option in options(command)}


def test_one_reader_of_options():
    """Every subcommand of testudo is a table for base/options.h, which alone asks getopt(3)."""
    found = [name for name in sources(".c", ".h", rooms=[f"{room}/" for room in ROOMS])
             if re.search(r"\bgetopt_long\(|<getopt\.h>", (TOP / name).read_text())]
    assert found == ["base/options.c"]


def test_manual_is_well_formed():
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", TOP / "docs" / "testudo.1"], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_completion_works():
    assert completed("run --no-") == {f"--{option}" for option in options("run") if option.startswith("no-")}


def test_install(tmp_path):
    """meson install puts program, manual and completion where a distribution expects them."""
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", tmp_path], capture_output=True,
                   check=True)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    prefix = "usr/local"
    assert {f"{prefix}/bin/testudo", f"{prefix}/share/man/man1/testudo.1",
            f"{prefix}/share/bash-completion/completions/testudo"} <= found, found
    assert shutil.which("testudo", path=tmp_path / prefix / "bin")


def test_documents_name_existing_files():
    """A path in backquotes or a link in README and docs/ leads somewhere."""
    missing = []
    for name in sources(".md"):
        text = (TOP / name).read_text()
        base = (TOP / name).parent
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            if not (base / target).exists():
                missing.append(f"{name}: {target}")
        for path in re.findall(r"`((?:base|cpuid|msr|policy|migration|devices|vmm|tests|tools|docs)/[\w./-]+)`", text):
            if not (TOP / path).exists() and not list(TOP.glob(path)):
                missing.append(f"{name}: {path}")
    assert not missing


def test_messages_of_a_migration_name_the_sides():
    """What one side says is read at the other: "here" and "there" are two hosts then. Where a text has but one side to
    it, it may say so."""
    one_side = re.compile(r"\bthere (?:is|are|were|was|should|must)\b|(?:be|is) there\b|(?:with|has|and) 0 there|[Ff]rom here on")
    found = []
    at_one_side = ("vmm/guest/ready.c", "vmm/cmd/guest.c")
    names = [name for name in sources(".c", rooms=["migration/", "msr/", "policy/", "vmm/hold/", "vmm/machine/v", "vmm/machine/m",
                                                   "vmm/guest/", "vmm/cmd/guest", "vmm/cmd/migrate"]) if name not in at_one_side]
    assert len(names) > 60
    for path in map(TOP.joinpath, names):
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        # a text in several pieces is one
        for text in re.findall(r'"((?:[^"\\\n]|\\.)*(?:"\s*(?:PRI\w+\s*)?"(?:[^"\\\n]|\\.)*)*)"', code):
            words = re.sub(r'"\s*(?:PRI\w+\s*)?"', "", text)
            if re.search(r"\b(?:here|there)\b", one_side.sub("", words)) and words != "here":
                found.append(f"{path.relative_to(TOP)}: {words}")
    assert not found, "\n".join(found)
