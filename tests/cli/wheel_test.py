"""scripts/make-wheel packs what pip installs: `qlora` on the PATH, which runs on the torch of its Python. Standard
library only; pip works offline."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import venv
import zipfile

SOURCE, BUILD = pathlib.Path(os.environ["QLORA_SOURCE"]), pathlib.Path(os.environ["QLORA_BUILD"])


def run(*command, **variables):
    return subprocess.run([str(part) for part in command], env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **variables},
                          capture_output=True, text=True, check=False)


class WheelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        made = tempfile.TemporaryDirectory()
        cls.addClassCleanup(made.cleanup)
        cls.folder = pathlib.Path(made.name)
        cache = (BUILD / "CMakeCache.txt").read_text(encoding="utf-8")
        cls.torch = re.search(r"^QLORA_TORCH:\w+=(.*)$", cache, re.MULTILINE).group(1)
        deps = re.search(r"^QLORA_DEPS:\w+=(.*)$", cache, re.MULTILINE).group(1)
        made = run(SOURCE / "scripts/make-wheel", "--build", BUILD, "--output", cls.folder / "dist", QLORA_DEPS=deps)
        assert made.returncode == 0, made.stderr
        cls.wheel = pathlib.Path(made.stdout.strip())
        venv.create(cls.folder / "venv", with_pip=True)
        done = run(cls.folder / "venv/bin/python", "-m", "pip", "install", "--no-index", "--no-deps", cls.wheel)
        assert done.returncode == 0, done.stderr
        cls.program = cls.folder / "venv/bin/qlora"

    def test_what_pip_installed_runs(self):
        result = run(self.program, "--version", QLORA_TORCH=self.torch)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertRegex(result.stdout, r"(?m)^libtorch 2\.11\.0")
        self.assertEqual(run(self.program, "trian", QLORA_TORCH=self.torch).returncode, 2)

    def test_without_torch_it_says_so_in_one_line(self):
        result = run(self.program, "--version")
        self.assertEqual((result.returncode, result.stdout, result.stderr.count("\n")), (1, "", 1))
        self.assertIn("pip install torch==2.11.0", result.stderr)

    def test_the_wheel_names_its_torch_and_packs_a_library_once(self):
        names = zipfile.ZipFile(self.wheel).namelist()
        self.assertIn("qlora/program/share/qlora/configs/spider.yaml", names)
        stems = [re.sub(r"\.so.*", "", name) for name in names if ".so" in name]
        self.assertEqual(len(stems), len(set(stems)), names)
        [metadata] = [name for name in names if name.endswith("METADATA")]
        self.assertIn(b"Requires-Dist: torch==2.11.0\n", zipfile.ZipFile(self.wheel).read(metadata))


if __name__ == "__main__":
    sys.exit(not unittest.main(exit=False, verbosity=2).result.wasSuccessful())
