"""`qlora eval` after a kill: the same command goes on behind the rows that are finished and ends as if nothing had been."""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import tiny_model

SEED = int(os.environ.get("QLORA_TEST_SEED", "7"))
PARTIAL = "predictions.partial.jsonl"


def lines_of(path):
    """The finished rows of a partial file; what is cut off is none."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()[1:]]


class EvalResumeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.base = pathlib.Path(tempfile.mkdtemp(prefix="qlora-eval-resume-"))
        cls.addClassCleanup(shutil.rmtree, cls.base)
        cls.random = random.Random(SEED)
        cls.model = tiny_model.make_model(cls.base / "model")
        cls.rows = tiny_model.write_rows(cls.base / "rows.jsonl", 20)
        cls.adapter = cls.base / "adapter"
        result = tiny_model.run("train", "--model_name_or_path", cls.model, "--dataset", cls.rows, "--output_dir",
                                cls.adapter, "--max_steps", 1, "--lora_r", 2, "--device", "cpu", "--learning_rate", "0.01")
        assert result.returncode == 0, result.stderr

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(dir=self.base))
        self.whole, self.cut = self.root / "whole", self.root / "cut"

    def flags(self, out, **keys):
        settings = {"model_name_or_path": self.model, "adapter": self.adapter, "baseline": "true", "output_dir": out,
                    "eval_dataset": self.rows, "tasks": "generate,perplexity", "device": "cpu", "batch_size": 2,
                    "max_new_tokens": 24, "quiet": "true"}
        settings.update(keys)
        return [part for key, value in settings.items() for part in (f"--{key}", value)]

    def eval(self, out, code=0, **keys):
        result = tiny_model.run("eval", *self.flags(out, **keys))
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def interrupt(self, out, number, more, **keys):
        """Ends an evaluation by a signal once it has finished `more` rows of its own."""
        partial = out / PARTIAL
        before = len(lines_of(partial))
        process = subprocess.Popen(tiny_model.command("eval", *self.flags(out, **keys)), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline and len(lines_of(partial)) < before + more:
            time.sleep(0.002)
        process.send_signal(number)
        stderr = process.communicate(timeout=300)[1]
        expected = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
        self.assertEqual(process.returncode, expected, stderr)
        self.assertFalse((out / "report.json").exists())
        rows = [(line["run"], line["task"], line["row"]) for line in lines_of(partial)]
        self.assertGreaterEqual(len(rows), before + more)
        return rows

    def same_end(self):
        self.assertEqual({p.name for p in self.cut.iterdir()}, {"report.json", "report.html", "predictions.jsonl"})
        self.assertEqual((self.cut / "predictions.jsonl").read_bytes(), (self.whole / "predictions.jsonl").read_bytes())
        reports = [json.loads((out / "report.json").read_text()) for out in (self.cut, self.whole)]
        for report in reports:
            del report["seconds"], report["output_tokens_per_second"]
        self.assertEqual(*reports)

    def test_killed_evaluations_end_as_if_they_had_not_been(self):
        self.eval(self.whole)
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
            rows = self.interrupt(self.cut, number, self.random.randint(1, 12))
            self.assertEqual(len(rows), len(set(rows)), "a row was finished twice")
            if number == signal.SIGKILL:
                with open(self.cut / PARTIAL, "a", encoding="utf-8") as file:
                    file.write('{"run": "base", "ta')  # as if it had been in the middle of a line
        self.eval(self.cut)
        self.same_end()

    def test_sampled_answers_are_the_same_again(self):
        keys = {"temperature": 1.0, "tasks": "generate"}
        self.eval(self.whole, **keys)
        self.interrupt(self.cut, signal.SIGKILL, 7, **keys)
        self.interrupt(self.cut, signal.SIGKILL, 17, **keys)
        self.eval(self.cut, **keys)
        self.same_end()

    def test_mmlu_goes_on_behind_its_subjects(self):
        folder = self.root / "mmlu"
        for part, count in (("dev", 5), ("test", 12)):
            (folder / part).mkdir(parents=True)
            for subject in ("anatomy", "astronomy", "marketing", "nutrition", "philosophy", "virology"):
                (folder / part / f"{subject}_{part}.csv").write_text("".join(
                    f'"{subject} {i}?",a,b,c,d,{i % 4}\n' for i in range(count)))
        keys = {"tasks": "mmlu", "mmlu_dir": folder}
        self.eval(self.whole, **keys)
        rows = self.interrupt(self.cut, signal.SIGKILL, 13, **keys)
        self.assertEqual({row[1] for row in rows}, {"mmlu"})
        self.eval(self.cut, **keys)
        self.same_end()

    def test_finished_rows_are_not_made_again(self):
        """What the file says of a row is believed: it is not asked twice."""
        self.interrupt(self.cut, signal.SIGKILL, 2)
        partial = self.cut / PARTIAL
        header, *lines = partial.read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        rows[0]["ids"] = [40, 41, 42]
        partial.write_text("\n".join([header, *map(json.dumps, rows)]) + "\n")
        self.eval(self.cut)
        self.eval(self.whole)
        answers = [[json.loads(line)["prediction"] for line in (out / "predictions.jsonl").read_text().splitlines()
                    if json.loads(line)["task"] == "generate"] for out in (self.cut, self.whole)]
        differ = [i for i, pair in enumerate(zip(*answers)) if pair[0] != pair[1]]
        self.assertEqual(differ, [rows[0]["row"]])

    def test_what_changes_answers_is_refused_by_name(self):
        self.interrupt(self.cut, signal.SIGKILL, 2)
        before = (self.cut / PARTIAL).read_bytes()
        rows = tiny_model.write_rows(self.root / "rows.jsonl", 21)
        model = self.root / "model"
        shutil.copytree(self.model, model)
        data = bytearray((model / "model.safetensors").read_bytes())
        data[-2] ^= 1
        (model / "model.safetensors").write_bytes(data)
        adapter = self.root / "adapter"
        shutil.copytree(self.adapter, adapter)
        data = bytearray((adapter / "adapter_model.safetensors").read_bytes())
        data[-2] ^= 1
        (adapter / "adapter_model.safetensors").write_bytes(data)
        for names, keys in ((["max_new_tokens"], {"max_new_tokens": 25}), (["limit", "data"], {"limit": 3}),
                            (["data"], {"eval_dataset": rows}), (["baseline"], {"baseline": "false"}),
                            (["model_name_or_path", "base weights"], {"model_name_or_path": model}),
                            (["adapter", "adapter weights"], {"adapter": adapter})):
            result = self.eval(self.cut, code=2, **keys)
            [message] = [line for line in result.stderr.splitlines() if "error" in line]
            self.assertIn(f"with another {', '.join(names)} left it", message)
            self.assertIn(PARTIAL, message)
        self.assertEqual((self.cut / PARTIAL).read_bytes(), before)
        self.eval(self.cut, code=7, require="generate.bleu:99", batch_size=3)  # how answers are scored is free
        self.assertFalse((self.cut / PARTIAL).exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
