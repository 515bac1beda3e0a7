"""The tests notice wrong code: each change below, made in a copy of the sources, must make a unit program fail.

The copy is built in a folder of its own; with a compiler cache that takes minutes.
"""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ["QLORA_SOURCE"])
BUILD = pathlib.Path(os.environ["QLORA_BUILD"])
COPIED = ["CMakeLists.txt", "cmake", "configs", "include", "kernels", "src", "tests", "README.md", "LICENSE"]

# (file, what stands there once, what is put in its place, the unit program that must fail)
MUTANTS = [
    ("src/nn/rope.cpp", "c.addcmul_(b, sin, -sign);", "c.addcmul_(b, sin, sign);", "unit_models"),
    ("src/nn/rms_norm.cpp", ".add_(epsilon_).rsqrt_()", ".rsqrt_()", "unit_nn"),
    ("src/nn/projection.cpp", "parameters_.compute(adapter.b).t(), adapter.scale);",
     "parameters_.compute(adapter.b).t(), 1.0);", "unit_nn"),
    ("src/nn/dropout.cpp", "static_cast<float>(1.0 / (1.0 - p))", "static_cast<float>(1.0)", "unit_nn"),
    ("src/quant/nf4.cpp", "q[even] << 4 | q[even + 1]", "q[even + 1] << 4 | q[even]", "unit_quant"),
    ("src/train/schedule.cpp", "static_cast<double>(step - warmup) / rest", "static_cast<double>(step) / rest", "unit_train"),
    ("src/train/optimizer.cpp", "info.decays ? settings.weight_decay : 0.0", "settings.weight_decay", "unit_train"),
    ("src/train/adamw_8bit.cpp", "now.second / top_second", "now.second / top_first", "unit_train"),
    ("src/data/row_encoder.cpp", "(ends ? end : token), std::uint8_t{1});", "token - 1, std::uint8_t{1});", "unit_data"),
    ("src/text/tokenizer/bpe.cpp", "rank > other.rank", "rank < other.rank", "unit_text"),
    ("src/hub/blob.cpp", "|| hash_.hex() == etag", "|| true", "unit_hub"),
    ("src/eval/score/result_table.cpp", "std::sort(keyed.begin(), keyed.end());", "", "unit_eval"),
]


class MutationTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="qlora-mutation-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        for name in COPIED:
            copy = shutil.copytree if (SOURCE / name).is_dir() else shutil.copy2
            copy(SOURCE / name, cls.folder / name)
        lines = (BUILD / "CMakeCache.txt").read_text().splitlines()
        cache = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith(("#", "//")))
        cls.cmake = cache["CMAKE_COMMAND:INTERNAL"]
        cls.run(cls.cmake, "-S", cls.folder, "-B", cls.folder / "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                f"-DCMAKE_MAKE_PROGRAM={cache['CMAKE_MAKE_PROGRAM:FILEPATH']}", f"-DQLORA_DEPS={cache['QLORA_DEPS:PATH']}")
        cls.programs = sorted({program for *_, program in MUTANTS})
        cls.build(*cls.programs)

    @staticmethod
    def run(*command):
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if result.returncode != 0:
            raise AssertionError(f"{command}: {result.stdout[-4000:]}")

    @classmethod
    def build(cls, *programs):
        cls.run(cls.cmake, "--build", cls.folder / "build", "--target", *programs)

    def passes(self, program):
        return subprocess.run([self.folder / "build/tests" / program, "--gtest_brief=1"], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=600, check=False).returncode == 0

    def test_every_mutant_is_found(self):
        for program in self.programs:
            self.assertTrue(self.passes(program), f"{program} fails before anything is changed")
        for name, right, wrong, program in MUTANTS:
            with self.subTest(f"{name}: {right}"):
                path = self.folder / name
                text = path.read_text(encoding="utf-8")
                self.assertEqual(text.count(right), 1, "the line to change must stand there once")
                path.write_text(text.replace(right, wrong), encoding="utf-8")
                try:
                    self.build(program)
                    self.assertFalse(self.passes(program), f"{program} does not notice {wrong!r}")
                finally:
                    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    unittest.main(verbosity=2)
