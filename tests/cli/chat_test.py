"""`qlora chat` through a pipe: lines in, answers out. Standard library only."""
import json
import pathlib
import shutil
import tempfile
import unittest

import tiny_model

EMBEDDED = tiny_model.SOURCE / "data/base-model"


class ChatTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.base = pathlib.Path(tempfile.mkdtemp(prefix="qlora-chat-"))
        cls.addClassCleanup(shutil.rmtree, cls.base)
        cls.model = tiny_model.make_model(cls.base / "model")
        rows = tiny_model.write_rows(cls.base / "rows.jsonl", 6)
        for name, rate in (("slow", "0.01"), ("fast", "0.3")):
            result = tiny_model.run(
                "train", "--model_name_or_path", cls.model, "--dataset", rows, "--output_dir", cls.base / name,
                "--max_steps", 3, "--per_device_train_batch_size", 2, "--lora_r", 4, "--device", "cpu", "--method",
                "lora", "--learning_rate", rate)
            assert result.returncode == 0, result.stderr

    def chat(self, text, *flags, code=0, model=None):
        if "--max_new_tokens" not in flags:
            flags += ("--max_new_tokens", 8)
        result = tiny_model.run("chat", "--model_name_or_path", model or self.model, "--device", "cpu", *flags,
                                input=text)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def turns(self, text, *flags, **options):
        return [json.loads(line) for line in self.chat(text, "--json", "true", *flags, **options).stdout.splitlines()]

    def adapters(self, *names):
        return [part for name in names for part in ("--adapter", self.base / name)]

    def test_answers_are_those_of_eval(self):
        rows = self.base / "one.jsonl"
        rows.write_text(json.dumps({"messages": [{"role": "system", "content": "Be brief."},
                                                 {"role": "user", "content": "How many singers?"}]}) + "\n")
        out = self.base / "eval"
        result = tiny_model.run("eval", "--model_name_or_path", self.model, "--eval_dataset", rows, "--tasks", "generate",
                                "--device", "cpu", "--max_new_tokens", 8, "--baseline", "true", "--output_dir", out,
                                *self.adapters("slow", "fast"))
        self.assertEqual(result.returncode, 0, result.stderr)
        lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        expected = {line["run"]: line["prediction"] for line in lines}
        self.assertGreater(len(set(expected.values())), 1, "the adapters say other things")
        asked = "How many singers?\n/reset\n"
        turns = self.turns(asked + "/adapter fast\n" + asked + "/adapter base\n" + asked, "--system_prompt", "Be brief.",
                           *self.adapters("slow", "fast"))
        self.assertEqual([turn["adapter"] for turn in turns], ["slow", "fast", "base"])
        self.assertEqual({turn["adapter"]: turn["answer"] for turn in turns}, expected)

    def test_a_conversation_goes_on_until_it_is_reset(self):
        first, second = "List the names of pets.", "How many cars are there?"
        turns = self.turns(f"{first}\n{second}\n/reset\n\n{second}\n", "--max_new_tokens", 24, model=EMBEDDED)
        self.assertEqual([turn["message"] for turn in turns], [first, second, second])
        self.assertIn("cars", turns[2]["answer"])
        self.assertNotEqual(turns[1]["answer"], turns[2]["answer"], "the second answer knows the first question")

    def test_text_streams_to_stdout_and_ends_before_a_stop(self):
        ask, flags = "How many cars are there?\n", ("--max_new_tokens", 24)
        answer = self.turns(ask, *flags, model=EMBEDDED)[0]["answer"]
        result = self.chat(ask, *flags, model=EMBEDDED)
        self.assertEqual(result.stdout, answer + "\n")
        self.assertIn("/adapter NAME", result.stderr)
        for stop in ("SELECT count", "```"):
            self.assertEqual(self.chat(ask, *flags, "--stop", stop, "--quiet", "true", model=EMBEDDED).stdout,
                             answer[:answer.index(stop)] + "\n")
        self.assertEqual(self.chat("").stdout, "")

    def test_what_cannot_be_is_refused(self):
        for text, part in (("/adapter nobody\n", "'nobody' is none of base"), ("/help\n", "/adapter NAME and /reset")):
            self.assertIn(part, self.chat(text, code=2).stderr)
        self.assertIn("positions", self.chat("many " * 400 + "\n", code=3).stderr)
        untaught = self.base / "untaught"
        shutil.copytree(self.model, untaught)
        (untaught / "chat_template.jinja").unlink()
        config = json.loads((untaught / "tokenizer_config.json").read_text())
        config.pop("chat_template", None)
        (untaught / "tokenizer_config.json").write_text(json.dumps(config))
        result = tiny_model.run("chat", "--model_name_or_path", untaught, "--device", "cpu", input="Hi\n")
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("chatml", result.stderr)

    def test_dry_run_names_who_can_be_talked_to(self):
        result = self.chat("", "--dry_run", "true", *self.adapters("slow", "fast", "slow"))
        self.assertEqual(result.stdout, "base, slow, fast, slow-2\n")


if __name__ == "__main__":
    unittest.main(verbosity=2)
