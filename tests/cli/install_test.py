"""`cmake --install` gives a folder that runs after it was moved, with the torch it is shown, and says in one line what
is missing where there is none. Standard library only."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

BUILD = pathlib.Path(os.environ["QLORA_BUILD"])


def cache(name):
    """A value of the build's CMakeCache.txt."""
    match = re.search(rf"^{name}:\w+=(.*)$", (BUILD / "CMakeCache.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert match, f"{name} is not in CMakeCache.txt"
    return match.group(1)


def run(program, *arguments, **variables):
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **variables}
    return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)


def check_failure(result, *words):
    lines = result.stderr.splitlines()
    assert result.returncode == 1 and result.stdout == "", result
    assert len(lines) == 1 and all(word in lines[0] for word in words), result.stderr


def fake_torch(folder, version):
    """A folder that looks like a torch of another version."""
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "libtorch_cpu.so").touch()
    (folder / "version.py").write_text(f"__version__ = '{version}+cpu'\n", encoding="utf-8")
    return folder


def tools_without_python(folder):
    folder.mkdir()
    for tool in ("dirname", "readlink", "sed"):
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def needed_elsewhere(program, folder, torch):
    """Libraries that the program finds outside of its folder and torch's, but for the run-time libraries."""
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True,
                             env={"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": f"{folder}:{torch}/lib"}).stdout
    paths = re.findall(r"=> (\S+) \(", listing)
    assert "not found" not in listing, listing
    # Beyond the program's own libraries, torch brings CUDA's, which its own run path finds.
    own = (str(folder), str(torch), os.path.realpath(torch), os.path.dirname(os.path.realpath(torch)))
    outside = [path for path in paths if not os.path.realpath(path).startswith(own)]
    runtime = r"/lib(c|m|dl|rt|util|pthread|resolv|stdc\+\+|gcc_s|gomp|asan|ubsan)\.so"
    return [path for path in outside if not re.search(runtime, path)]


def main():
    torch = cache("QLORA_TORCH")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        subprocess.run([cache("CMAKE_COMMAND"), "--install", BUILD, "--prefix", folder / "first"], check=True,
                       capture_output=True)
        moved = folder / "with a space" / "moved"
        moved.parent.mkdir()
        shutil.move(folder / "first", moved)
        launcher = moved / "bin" / "qlora"

        result = run(launcher, "--version", QLORA_TORCH=torch)
        assert result.returncode == 0 and "qlora" in result.stdout, result
        link = folder / "qlora"
        link.symlink_to(launcher)
        assert run(link, "--version", QLORA_TORCH=torch).returncode == 0

        check_failure(run(launcher, "--version", QLORA_TORCH=str(folder)), "libtorch", str(folder), "QLORA_TORCH")
        check_failure(run(launcher, "--version", PATH=str(tools_without_python(folder / "tools"))), "python3 on PATH")
        other = fake_torch(folder / "torch", "2.1.0")
        check_failure(run(launcher, "--version", QLORA_TORCH=str(other)), "2.1.0", "2.11.0")

        left = needed_elsewhere(moved / "lib" / "qlora" / "qlora", moved / "lib" / "qlora", torch)
        assert not left, f"these libraries are not in the folder: {left}"
        assert (moved / "share" / "qlora" / "LICENSE").is_file()
        assert list((moved / "share" / "qlora" / "configs").glob("*.yaml"))
    print("install: moved, run through the launcher and a link; three refusals; no library left behind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
