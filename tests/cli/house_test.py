"""The rules of the house, read off the files: arrows between rooms, no torch where none belongs, file lengths, places
of one machine that slipped in, configs that no test loads. Each rule is first tried on a planted fault.

Standard library only. Exits non-zero and lists every fault with its file and line.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

MAX_LINES = 800
CODE = {".cpp", ".h", ".cu", ".cuh", ".py", ".sh", ".cmake"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.MULTILINE)
TORCH = re.compile(r"^(torch|ATen|c10|caffe2)/")
# Rooms that stay free of files and config keys, and what that forbids.
NO_FILES = ("nn", "quant", "models")
FILES_OR_KEYS = re.compile(r"^qlora/(formats|hub|data|app|cli)/|/options\.h$|^qlora/core/(config|schema|yaml|flags|atomic)")
KERNEL_STD = {"vector", "string", "memory", "map", "iostream"}
PLACES = re.compile(r"(?<![\w.$~}-])/(root|home|work)/\w|\b(pypi\.org|pythonhosted\.org|download\.pytorch\.org"
                    r"|deb\.debian\.org|archive\.ubuntu\.com|registry\.npmjs\.org|conda\.anaconda\.org)")
ROOM_LINE = re.compile(r"^qlora_room\((\w+)\s*(TORCH)?\s*(?:DEPENDS\s+([^)]*))?\)", re.MULTILINE)


class Rooms:
    """The rooms of CMakeLists.txt: who uses tensors, and which rooms each may include."""

    def __init__(self, root):
        text = (root / "CMakeLists.txt").read_text(encoding="utf-8")
        self.torch, self.allowed = set(), {}
        for name, torch, depends in ROOM_LINE.findall(text):
            if torch:
                self.torch.add(name)
            closure = {name}
            for dependency in re.findall(r"\bqlora_(\w+)", depends):
                closure |= self.allowed.get(dependency, set())
            self.allowed[name] = closure

    def reaches_torch(self, room):
        return bool(self.allowed.get(room, set()) & self.torch)


def tracked_files(root):
    """Files under version control, else all files but build outputs."""
    listing = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "--cached"], capture_output=True, check=False)
    if listing.returncode == 0 and listing.stdout:
        return [root / name for name in listing.stdout.decode().split("\0") if name and (root / name).is_file()]
    found = []
    for folder, names, files in os.walk(root):
        names[:] = [n for n in names if n not in (".git", ".deps", "build", "demo-output", "__pycache__")]
        found += [pathlib.Path(folder) / name for name in files]
    return found


def text_of(path):
    """The text of a file, or None where it is binary."""
    data = path.read_bytes()
    return None if b"\0" in data[:8192] else data.decode("utf-8", errors="replace")


def includes(text):
    for match in INCLUDE.finditer(text):
        yield text.count("\n", 0, match.start(2)) + 1, match.group(1) == '"', match.group(2)


def room_of(relative):
    parts = relative.parts
    if parts[0] == "src" and len(parts) > 2:
        return parts[1]
    if parts[:2] == ("include", "qlora") and len(parts) > 3:
        return parts[2]
    return None


def check_arrows(root, files):
    """A room includes only itself and the rooms that CMakeLists.txt lets it depend on."""
    rooms = Rooms(root)
    for path in files:
        relative = path.relative_to(root)
        room = room_of(relative)
        if room is None or path.suffix not in (".cpp", ".h"):
            continue
        if room not in rooms.allowed:
            yield f"{relative}: room '{room}' is not in CMakeLists.txt's list"
            continue
        for line, _, name in includes(text_of(path)):
            target = re.match(r"qlora/(\w+)/", name)
            if target and target.group(1) not in rooms.allowed[room]:
                yield f"{relative}:{line}: room '{room}' must not know '{target.group(1)}' ({name})"
            if TORCH.match(name) and not rooms.reaches_torch(room):
                yield f"{relative}:{line}: room '{room}' has no tensors ({name})"
            if room in NO_FILES and FILES_OR_KEYS.search(name):
                yield f"{relative}:{line}: room '{room}' knows no files and no config keys ({name})"


def check_scores(root, files):
    """eval/score needs no torch, not even through a header of this project."""
    by_name = {str(p.relative_to(root / "include")): p for p in files if (root / "include") in p.parents}
    for path in files:
        relative = path.relative_to(root)
        if not re.match(r"(src|include/qlora)/eval/score/", relative.as_posix()) or path.suffix not in (".cpp", ".h"):
            continue
        seen, queue = set(), [path]
        while queue:
            for _, _, name in includes(text_of(queue.pop())):
                if TORCH.match(name):
                    yield f"{relative}: reaches {name}, but the scores need no torch"
                if name in by_name and name not in seen:
                    seen.add(name)
                    queue.append(by_name[name])


def is_for_kernels(root, name):
    """Whether a header, with all that it includes, is free of torch and containers: arithmetic that the CPU may share."""
    if TORCH.match(name) or name in KERNEL_STD:
        return False
    path = root / "include" / name
    return not path.is_file() or all(is_for_kernels(root, inner) for _, _, inner in includes(text_of(path)))


def check_kernels(root, files):
    """kernels/ takes raw pointers: no torch, no containers, of include/ only arithmetic that the CPU shares."""
    for path in files:
        relative = path.relative_to(root)
        if relative.parts[0] != "kernels" or path.suffix not in CODE:
            continue
        for line, _, name in includes(text_of(path)):
            if not is_for_kernels(root, name):
                yield f"{relative}:{line}: kernels take raw pointers, sizes and a stream ({name})"


def check_headers(root, files):
    for path in files:
        relative = path.relative_to(root)
        if path.suffix == ".h" and relative.parts[0] in ("include", "src", "tests") and "#pragma once" not in text_of(path):
            yield f"{relative}: a header begins with #pragma once"


def check_lengths(root, files):
    for path in files:
        relative = path.relative_to(root)
        if path.suffix not in CODE and relative.parts[0] not in ("scripts", ".ci"):
            continue
        text = text_of(path)
        lines = text.count("\n") if text is not None else 0
        if lines > MAX_LINES and not relative.name.endswith("_tables.h"):
            yield f"{relative}: {lines} lines; {MAX_LINES} are the limit: is it one thing?"


def check_places(root, files):
    """No folder of one machine, and no registry's host: users have their own."""
    for path in files:
        if path.name == pathlib.Path(__file__).name:
            continue
        text = text_of(path)
        for match in PLACES.finditer(text or ""):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{path.relative_to(root)}:{line}: a place of one machine or a registry's host: {match.group(0)}"


def check_configs(root, files):
    """Every shipped config is loaded by a test: by name, or by one that walks the folder."""
    tests = "\n".join(text_of(p) or "" for p in files
                      if p.relative_to(root).parts[0] == "tests" and p.name != pathlib.Path(__file__).name)
    walks = re.search(r"(directory_iterator|glob)\b[^\n]*configs|configs[^\n]*(directory_iterator|glob)\b", tests)
    for path in files:
        relative = path.relative_to(root)
        if relative.parts[0] == "configs" and path.suffix == ".yaml" and not walks and path.name not in tests:
            yield f"{relative}: no test loads it"


CHECKS = [check_arrows, check_scores, check_kernels, check_headers, check_lengths, check_places, check_configs]

LIST = """qlora_room(core DEPENDS json)
qlora_room(formats DEPENDS qlora_core)
qlora_room(data DEPENDS qlora_formats)
qlora_room(nn TORCH DEPENDS qlora_core)
qlora_room(train TORCH DEPENDS qlora_nn qlora_data)
qlora_room(eval DEPENDS qlora_data)
"""
SOUND = {
    "include/qlora/data/row.h": "#pragma once\n#include <vector>\n",
    "src/train/loop.cpp": '#include "qlora/data/row.h"\n#include <ATen/core/Tensor.h>\n// $HOME/work/a, ~/home/b\n',
    "src/eval/score/a.cpp": '#include "qlora/data/row.h"\n',
    "include/qlora/nn/shared.h": '#pragma once\n#include <cmath>\n#include "qlora/core/host_device.h"\n',
    "kernels/a.cu": '#include <cuda_bf16.h>\n#include "qlora/nn/shared.h"\n',
    "configs/a.yaml": "x: 1\n",
    "tests/unit/app/configs_test.cpp": '"configs/a.yaml"\n',
}
# What is planted, and which check must find it.
PLANTED = [
    (check_arrows, "src/core/a.cpp", '#include "qlora/data/row.h"\n'),
    (check_arrows, "src/train/b.cpp", '#include "qlora/eval/score.h"\n'),
    (check_arrows, "include/qlora/data/b.h", "#pragma once\n#include <torch/torch.h>\n"),
    (check_arrows, "src/nn/b.cpp", '#include "qlora/core/schema.h"\n'),
    (check_arrows, "src/nn/c.cpp", '#include "qlora/train/options.h"\n'),
    (check_arrows, "src/attic/b.cpp", "\n"),
    (check_scores, "src/eval/score/b.cpp", '#include <c10/util/Half.h>\n'),
    (check_kernels, "kernels/b.cu", "#include <ATen/ATen.h>\n"),
    (check_kernels, "kernels/c.cu", "#include <vector>\n"),
    (check_kernels, "kernels/d.cu", '#include "qlora/data/row.h"\n'),
    (check_headers, "include/qlora/data/c.h", "int x;\n"),
    (check_lengths, "src/data/b.cpp", "\n" * (MAX_LINES + 1)),
    (check_places, "README.md", "see " + "/ro" + "ot/x\n"),
    (check_places, "scripts/b", "pip install -i https://py" + "pi.org/simple x\n"),
    (check_configs, "configs/b.yaml", "x: 1\n"),
]


def write_tree(root, tree):
    for name, text in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def faults_of(root, checks):
    files = [path for path in tracked_files(root)]
    return [fault for check in checks for fault in check(root, files)]


def self_test():
    """A sound tree has no fault, and each planted fault is found by its check."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write_tree(root, {"CMakeLists.txt": LIST, **SOUND})
        assert faults_of(root, CHECKS) == [], faults_of(root, CHECKS)
        for check, name, text in PLANTED:
            write_tree(root, {name: text})
            faults = faults_of(root, [check])
            assert faults and all(f.startswith(name) for f in faults), f"{name}: planted, found {faults}"
            (root / name).unlink()


def main():
    self_test()
    root = pathlib.Path(os.environ.get("QLORA_SOURCE") or pathlib.Path(__file__).resolve().parents[2])
    faults = faults_of(root, CHECKS)
    for fault in faults:
        print(fault)
    print(f"house: {len(PLANTED)} planted faults found; {len(tracked_files(root))} files read, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
