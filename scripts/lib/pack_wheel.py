"""pack_wheel.py STAGED OUTPUT: packs STAGED/qlora/program, an installed folder, as a wheel in OUTPUT; prints its path.

A wheel (PEP 427) is a zip: the package `qlora` (the installed folder and a launcher) and its metadata. Python only
starts the program; it neither imports torch nor runs anything of ours beside it.
"""
import base64
import hashlib
import os
import pathlib
import re
import sys
import zipfile

TAG = "py3-none-linux_x86_64"
LAUNCHER = '''"""Replaces this process by the program, run on the torch of this Python."""
import importlib.util
import os
import sys


def main():
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "program", "bin", "qlora")
    torch = importlib.util.find_spec("torch")  # where it is: it is not imported
    if torch is not None and torch.origin:
        os.environ.setdefault("QLORA_TORCH", os.path.dirname(torch.origin))
    os.execv(program, [program, *sys.argv[1:]])


if __name__ == "__main__":
    main()
'''


def value(text, pattern):
    return re.search(pattern, text, re.MULTILINE).group(1)


def metadata(version, torch, readme):
    return ("Metadata-Version: 2.1\nName: qlora\n"
            f"Version: {version}\nSummary: Fine-tunes language models with QLoRA: one native program\n"
            "License: Apache-2.0\nRequires-Python: >=3.9\n"
            f"Requires-Dist: torch=={torch}\nDescription-Content-Type: text/markdown\n\n{readme}")


class Wheel:
    def __init__(self, path, info):
        self.file, self.info, self.records = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED), info, []

    def add(self, name, data, mode=0o644):
        entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # equal input gives equal bytes
        entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, (0o100000 | mode) << 16
        self.file.writestr(entry, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self.records.append(f"{name},sha256={digest},{len(data)}\n")

    def close(self):
        record = f"{self.info}/RECORD"
        self.add(record, "".join([*self.records, f"{record},,\n"]).encode())
        self.file.close()


def main(staged, output):
    staged = pathlib.Path(staged).resolve()
    program = staged / "qlora" / "program"
    root = pathlib.Path(__file__).resolve().parents[2]
    version = value((root / "CMakeLists.txt").read_text(), r"project\(qlora VERSION ([0-9.]+)")
    torch = value((program / "bin" / "qlora").read_text(), r"^version=(\S+)")
    info = f"qlora-{version}.dist-info"
    path = pathlib.Path(output) / f"qlora-{version}-{TAG}.whl"
    temporary = path.with_suffix(".partial")
    wheel = Wheel(temporary, info)
    wheel.add("qlora/__init__.py", f'__version__ = "{version}"\n'.encode())
    wheel.add("qlora/__main__.py", LAUNCHER.encode())
    # A wheel knows no links: a library goes in under the name it is looked for, which is a link to its full version.
    targets = {link.resolve() for link in program.rglob("*") if link.is_symlink()}
    for file in sorted(p for p in program.rglob("*") if p.is_file() and (p.is_symlink() or p not in targets)):
        executable = os.access(file, os.X_OK)
        wheel.add(file.relative_to(staged).as_posix(), file.read_bytes(), 0o755 if executable else 0o644)
    wheel.add(f"{info}/METADATA", metadata(version, torch, (root / "README.md").read_text()).encode())
    wheel.add(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: qlora\nRoot-Is-Purelib: false\nTag: {TAG}\n".encode())
    wheel.add(f"{info}/entry_points.txt", b"[console_scripts]\nqlora = qlora.__main__:main\n")
    wheel.add(f"{info}/LICENSE", (root / "LICENSE").read_bytes())
    wheel.close()
    os.replace(temporary, path)
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
