"""What README.md, CONTRIBUTING.md and scripts/demo tell a user to type exists: commands, flags, scripts, files.
Standard library only."""
import os
import pathlib
import re
import subprocess
import sys

SOURCE = pathlib.Path(os.environ["QLORA_SOURCE"])
QLORA = pathlib.Path(os.environ["QLORA_BUILD"]) / "qlora"
PATHS = re.compile(r"(?<![\w/.$-])(?![\w./-]*[*])((?:scripts|configs|tests|src|include|data|cmake|\.ci|\.github)/[\w./-]*\w)")
HELP = {}


def help_of(*command):
    """The help text of `qlora COMMAND` or of a script."""
    if command not in HELP:
        result = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{command} --help: exit {result.returncode}: {result.stderr}"
        HELP[command] = re.sub(r"(?<=\w)-(?=\w)", "_", result.stdout)
    return HELP[command]


def shell_lines(text):
    """The lines of the sh blocks, without their comments."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        yield from (re.sub(r"\s+#.*", "", line).strip() for line in block.splitlines())


def demo_lines(text):
    """The calls of scripts/demo: step NAME COMMAND ARGUMENTS."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        match = re.match(r'step "[^"]*" (.*)', line)
        if match:
            yield "qlora " + match.group(1)


def command_faults(line):
    words = line.split()
    if not words or not (words[0] == "qlora" or words[0].startswith("scripts/")):
        return
    command = (str(QLORA), words[1]) if words[0] == "qlora" else (str(SOURCE / words[0]),)
    text = help_of(*command)
    for flag in re.findall(r"(?<!\S)--([\w-]+)", line):
        if not re.search(rf"\b{flag.replace('-', '_')}\b", text):
            yield f"'{line}': its help knows no --{flag}"


def main():
    faults, lines = [], 0
    pages = {name: (SOURCE / name).read_text(encoding="utf-8")
             for name in ("README.md", ".github/CONTRIBUTING.md", "scripts/demo")}
    for name, text in pages.items():
        for line in demo_lines(text) if name == "scripts/demo" else shell_lines(text):
            faults += [f"{name}: {fault}" for fault in command_faults(line)]
            lines += 1
        for path in PATHS.findall(text):
            if not (SOURCE / path).exists() and not re.search(r"[A-Z]{2}", path.rsplit("/", 1)[-1]):
                faults.append(f"{name}: {path} does not exist")
    assert list(command_faults("scripts/build --no-such-flag")), "a wrong flag must be found"
    assert lines > 15, f"only {lines} command lines were found"
    for fault in faults:
        print(fault)
    print(f"readme: {lines} command lines, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
