"""`qlora eval` with a model: which base the adapters are scored over, which rows, the plan, and what is refused before
anything is loaded. Standard library only."""
import json
import pathlib
import resource
import shutil
import tempfile
import unittest

import tiny_model


class EvalTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.base = pathlib.Path(tempfile.mkdtemp(prefix="qlora-eval-"))
        cls.addClassCleanup(shutil.rmtree, cls.base)
        cls.model = tiny_model.make_model(cls.base / "model")
        cls.rows = tiny_model.write_rows(cls.base / "rows.jsonl", 6)
        for name, method, nested in (("qlora", "qlora", "true"), ("lora", "lora", "true"), ("unnested", "qlora", "false")):
            result = tiny_model.run(
                "train", "--model_name_or_path", cls.model, "--dataset", cls.rows, "--output_dir", cls.base / name,
                "--max_steps", 1, "--per_device_train_batch_size", 2, "--lora_r", 2, "--device", "cpu", "--method",
                method, "--use_bnb_nested_quant", nested, "--learning_rate", "0.01")
            assert result.returncode == 0, result.stderr

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(dir=self.base))

    def eval(self, *flags, tasks="perplexity", code=0, rows=None, **options):
        result = tiny_model.run("eval", "--model_name_or_path", self.model, "--eval_dataset", rows or self.rows, "--tasks",
                                tasks, "--device", "cpu", "--quiet", "true", *flags, **options)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def losses(self, *flags):
        report = json.loads(self.eval("--json", "true", *flags).stdout)
        return {name: run["tasks"]["perplexity"]["overall"]["loss"] for name, run in report["runs"].items()}

    def adapters(self, *names):
        return [part for name in names for part in ("--adapter", self.base / name)]

    def refused(self, *parts, flags=(), tasks="perplexity"):
        """Before the weights are read: there are none."""
        model = self.root / "weightless"
        if not model.exists():
            shutil.copytree(self.model, model)
            (model / "model.safetensors").write_bytes(b"no weights")
        result = tiny_model.run("eval", "--model_name_or_path", model, "--eval_dataset", self.rows, "--tasks", tasks,
                                "--output_dir", self.root / "out", *flags)
        self.assertEqual(result.returncode, 2, result.stderr)
        for part in parts:
            self.assertIn(str(part), result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertFalse((self.root / "out").exists())

    def test_each_adapter_is_scored_over_the_base_it_was_trained_on(self):
        alone = {**self.losses(*self.adapters("qlora")), **self.losses(*self.adapters("lora"))}
        self.assertEqual(self.losses(*self.adapters("qlora", "lora")), alone)
        self.assertEqual(self.losses(*self.adapters("lora", "qlora")), alone)
        dense = self.losses("--load_in_4bit", "false", *self.adapters("qlora", "lora"))
        self.assertEqual(dense["lora"], alone["lora"])
        self.assertNotEqual(dense["qlora"], alone["qlora"])
        plain = self.losses("--use_bnb_nested_quant", "false", *self.adapters("qlora"))
        self.assertNotEqual(plain["qlora"], alone["qlora"], "the command wins over the record")
        given = self.losses("--use_bnb_nested_quant", "true", *self.adapters("unnested"))
        self.assertNotEqual(given, self.losses(*self.adapters("unnested")), "with its default's value too")

    def test_a_named_template_goes_with_the_adapter(self):
        """The base has no template and stops elsewhere: what ends the template's answers becomes a stop token."""
        model = self.root / "untaught"
        shutil.copytree(self.model, model)
        (model / "chat_template.jinja").unlink(missing_ok=True)
        (model / "generation_config.json").write_text('{"eos_token_id": 0}')
        config = json.loads((model / "tokenizer_config.json").read_text())
        config.pop("chat_template", None)
        config["eos_token"] = "<|endoftext|>"
        config["model_max_length"] = longest = 1000000000000000019884624838656  # what transformers writes for no limit
        (model / "tokenizer_config.json").write_text(json.dumps(config))
        source = ("--model_name_or_path", model, "--device", "cpu", "--quiet", "true")
        named = ("--chat_template", "chatml")
        run = lambda command, *flags: self.assertEqual(tiny_model.run(command, *source, *flags).returncode, 0)
        run("prepare", "--dataset", self.rows, "--output_dir", self.root / "set", *named)
        for out, data in (("direct", ("--dataset", self.rows)), ("prepared", ("--prepared_dir", self.root / "set"))):
            run("train", *data, *named, "--max_steps", 1, "--output_dir", self.root / out)
            self.assertEqual(json.loads((self.root / out / "generation_config.json").read_text()),
                             {"eos_token_id": [2, 0]})
            template = (self.root / out / "chat_template.jinja").read_text()
            self.assertIn("<|im_end|>", template)
            text = (self.root / out / "tokenizer_config.json").read_text()
            self.assertIn(f'"model_max_length": {longest}', text)
            self.assertEqual(json.loads(text), {**config, "chat_template": template})
        adapter = ("--adapter", self.root / "direct")
        run("eval", *adapter, "--eval_dataset", self.rows, "--tasks", "generate", "--max_new_tokens", 2, "--limit", 1,
            "--baseline", "true", "--output_dir", self.root / "eval")
        answers = [json.loads(line) for line in (self.root / "eval/predictions.jsonl").read_text().splitlines()]
        self.assertEqual([a["prompt"].count("<|im_end|>") for a in answers], [1, 1])
        run("merge", *adapter, "--output_dir", self.root / "merged")
        self.assertEqual((self.root / "merged/tokenizer_config.json").read_text(),
                         (self.root / "direct/tokenizer_config.json").read_text())
        self.assertEqual(json.loads((self.root / "merged/generation_config.json").read_text())["eos_token_id"], [2, 0])
        (self.root / "prepared/chat_template.jinja").write_text("{{ messages[0].content }}")
        self.refused("was trained with another chat template", self.root / "direct",
                     flags=(*adapter, "--adapter", self.root / "prepared"))

    def test_prompts_are_checked_before_the_weights(self):
        rows = self.root / "odd.jsonl"
        chat = lambda text: {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": ""}]}
        rows.write_text("\n".join(json.dumps(chat(text)) for text in ("hi", "many words " * 300)) + "\n")
        generate = lambda *flags: tiny_model.run(
            "eval", "--model_name_or_path", self.model, "--eval_dataset", rows, "--tasks", "generate", "--device", "cpu",
            "--max_new_tokens", 4, "--chat_template", "chatml", "--output_dir", self.root / "made", *flags)
        self.assertEqual(generate("--limit", 1).returncode, 0)
        [answer] = (self.root / "made/predictions.jsonl").read_text().splitlines()
        self.assertEqual(json.loads(answer)["gold"], "")
        for plan in ((), ("--dry_run", "true")):
            result = generate(*plan)
            self.assertEqual(result.returncode, 3, result.stderr)
            self.assertIn("odd.jsonl:2: the prompt's", result.stderr)
        self.refused("leaves no room for a prompt", flags=("--max_new_tokens", 256), tasks="generate")

    def test_an_adapter_called_base_is_not_the_base(self):
        shutil.copytree(self.base / "qlora", self.root / "base")
        self.assertEqual(list(self.losses("--adapter", self.root / "base")), ["base-2"])

    def test_an_adapter_is_named_after_its_folder_however_it_is_spelt(self):
        for path in (f"{self.base / 'qlora'}/.", f"{self.base / 'qlora'}/", self.base / "lora/../qlora"):
            self.assertEqual(list(self.losses("--adapter", path)), ["qlora"])

    def test_rows_that_are_left_out_are_counted(self):
        rows = self.root / "rows.jsonl"
        rows.write_text(self.rows.read_text() + json.dumps(
            {"messages": [{"role": "user", "content": "x " * 200}, {"role": "assistant", "content": "y"}]}) + "\n")
        count = len(self.rows.read_text().splitlines())
        for overflow, left_out, truncated in (("drop", {"too_long": 1}, 0), ("truncate", {"too_long": 1}, 0)):
            task = json.loads(self.eval("--json", "--max_length", 128, "--overflow", overflow, rows=rows).stdout)[
                "runs"]["base"]["tasks"]["perplexity"]
            self.assertEqual((task["n"], task["left_out"], task["truncated"]), (count, left_out, truncated))

    def test_the_rows_that_training_left_out_are_the_evaluations(self):
        rows = ["--dataset", self.rows, "--val_size", 4]
        first = tiny_model.run("eval", "--model_name_or_path", self.model, *rows, "--tasks", "perplexity", "--json",
                               "--per_row", self.root / "rows.jsonl", "--device", "cpu")
        self.assertEqual(first.returncode, 0, first.stderr)
        out = self.root / "trained"
        trained = tiny_model.run("train", "--model_name_or_path", self.model, *rows, "--output_dir", out, "--max_steps", 1,
                                 "--eval_strategy", "steps", "--eval_steps", 1, "--learning_rate", 0, "--device", "cpu",
                                 "--method", "lora", "--json")
        self.assertEqual(trained.returncode, 0, trained.stderr)
        self.assertAlmostEqual(json.loads(first.stdout)["runs"]["base"]["tasks"]["perplexity"]["overall"]["loss"],
                               json.loads(trained.stdout)["eval_loss"], places=6)
        missing = tiny_model.run("eval", "--model_name_or_path", self.model, *rows[:2], "--tasks", "perplexity")
        self.assertEqual(missing.returncode, 2)
        self.assertIn("val_size", missing.stderr)

    def test_one_base_cannot_be_paired_with_adapters_over_two(self):
        flags = ("--baseline", "true", *self.adapters("qlora", "lora"))
        self.refused(self.base / "qlora", self.base / "lora", "load_in_4bit", flags=flags)
        self.assertEqual(set(self.losses("--load_in_4bit", "true", *flags)), {"base", "qlora", "lora"})

    def test_limit_and_offset_hold_for_perplexity(self):
        def ids(*flags):
            path = self.root / "rows.jsonl"
            report = json.loads(self.eval("--json", "true", "--per_row", path, *flags).stdout)
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            self.assertEqual(report["runs"]["base"]["tasks"]["perplexity"]["n"], len(lines))
            self.assertEqual(set(lines[0]), {"id", "nll", "tokens"})
            return [line["id"] for line in lines]
        whole = ids()
        self.assertEqual(len(whole), 6)
        self.assertEqual(ids("--limit", "2"), whole[:2])
        self.assertEqual(ids("--offset", "4"), whole[4:])
        self.assertEqual(ids("--offset", "1", "--limit", "3"), whole[1:4])
        self.refused("offset", "6 rows", flags=("--offset", "6"))

    def test_per_row(self):
        for tasks, file, part in (("perplexity", "rows.tsv", "spider"), ("generate", "rows.jsonl", "perplexity"),
                                  ("generate", "rows.tsv", "predictions.jsonl")):
            self.refused("per_row", file, part, tasks=tasks, flags=("--per_row", self.root / file))
        path = self.root / "rows.jsonl"
        self.eval("--per_row", path, "--baseline", "true", *self.adapters("qlora"))
        runs = [json.loads(line)["run"] for line in path.read_text().splitlines()]
        self.assertEqual(runs, ["base"] * 6 + ["qlora"] * 6)

    def test_mmlu(self):
        """5 shots and a few questions of two subjects; it needs no rows."""
        folder = self.root / "mmlu"
        for part, count in (("dev", 5), ("test", 4)):
            (folder / part).mkdir(parents=True)
            for subject in ("anatomy", "virology"):
                (folder / part / f"{subject}_{part}.csv").write_text("question,choice0,choice1,choice2,choice3,answer\n" + "".join(
                    f'"{subject} {i}?",a,b,c,d,{i % 4}\n' for i in range(count)))
        out = self.root / "out"
        source = ("--model_name_or_path", self.model, "--device", "cpu", "--tasks", "mmlu", "--quiet", "true")
        flags = ("--mmlu_dir", folder, "--mmlu_limit", 3)
        result = tiny_model.run("eval", *source, *flags, *self.adapters("qlora"), "--baseline", "true", "--json", "true",
                                "--output_dir", out, "--require", "mmlu.acc:0")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("2 of the 57 subjects", result.stderr)
        report = json.loads(result.stdout)
        task = report["runs"]["qlora"]["tasks"]["mmlu"]
        self.assertEqual((task["n"], task["by"]["stem"]["n"], task["by"]["humanities"]["n"]), (6, 3, 0))
        self.assertEqual({s: v["n"] for s, v in task["by_subject"].items()}, {"anatomy": 3, "virology": 3})
        pair = report["paired"]["qlora"]["mmlu"]["acc"]
        self.assertEqual(pair["wins"] + pair["losses"] + pair["ties"], 6)
        rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        self.assertEqual([len(row["log_likelihoods"]) for row in rows], [4] * 12)
        self.assertEqual(rows[1]["id"], "anatomy/1")
        for row in rows:
            best = max(range(4), key=lambda i: row["log_likelihoods"][i])
            self.assertEqual((row["prediction"], row["acc"]), ("ABCD"[best], float("ABCD"[best] == row["gold"])))
        self.assertIn("by subject", (out / "report.html").read_text())
        plan = tiny_model.run("eval", *source, *flags, "--dry_run", "true")
        self.assertTrue(plan.stdout.startswith("6 rows; tasks: mmlu; runs: base\nbase\n"), plan.stdout)
        missing = tiny_model.run("eval", *source)
        self.assertEqual((missing.returncode, "mmlu_dir" in missing.stderr), (2, True), missing.stderr)
        absent = tiny_model.run("eval", *source, "--mmlu_dir", self.root / "absent")
        self.assertEqual((absent.returncode, "test/NAME_test.csv" in absent.stderr), (3, True), absent.stderr)

    def test_require_is_checked_first(self):
        self.refused("spider", "perplexity", flags=("--require", "spider.execution:0.5"))
        self.refused("accuracy", "nll, loss, perplexity", flags=("--require", "perplexity.accuracy:0.5"))
        self.refused("perplexity.loss", "less is better", flags=("--require", "perplexity.loss:0.5"))

    def test_the_table(self):
        text = self.eval("--baseline", "true", *self.adapters("qlora")).stdout
        self.assertIn("perplexity", text)
        self.assertNotIn("%", text.replace("95 %", ""))

    def test_answers_are_scored_where_rows_carry_one(self):
        flags = ("--max_new_tokens", "2", "--limit", "3")
        text = self.eval(*flags, tasks="generate").stdout
        self.assertRegex(text, r"(?s)base: generate, 3 rows.*bleu +0\.00\n.*rougeL +0\.00 %")
        self.eval(*flags, "--require", "generate.bleu:1", tasks="generate", code=7)
        bare = self.root / "bare.jsonl"
        bare.write_text('{"messages": [{"role": "user", "content": "How many?"}]}\n' * 3)
        self.assertEqual(self.eval(*flags, rows=bare, tasks="generate").stdout,
                         "base: generate, 3 rows generated\n")
        missing = self.eval(*flags, "--require", "generate.bleu:1", rows=bare, tasks="generate", code=3)
        self.assertIn("no row of the task 'generate' could be scored", missing.stderr)
        mixed = self.root / "mixed.jsonl"
        mixed.write_text(bare.read_text().splitlines()[0] + "\n" + self.rows.read_text().splitlines()[0] + "\n")
        out = self.root / "out"
        report = json.loads(self.eval(*flags, "--json", "true", "--baseline", "true", "--output_dir", out,
                                      *self.adapters("qlora"), rows=mixed, tasks="generate").stdout)
        task = report["runs"]["qlora"]["tasks"]["generate"]
        self.assertEqual((task["n"], task["n_scored"]), (2, 1))
        self.assertEqual(set(task["overall"]), {"exact_string", "bleu", "chrf", "rouge1", "rouge2", "rougeL"})
        self.assertEqual(sum(report["paired"]["qlora"]["generate"]["chrf"][k] for k in ("wins", "losses", "ties")), 1)
        rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        self.assertEqual(["chrf" in row for row in rows], [False, True, False, True])
        answer = [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
        parts = self.root / "parts.jsonl"
        parts.write_text(json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]}))
        self.eval(*flags, "--chat_template", "chatml", "--output_dir", out, rows=parts, tasks="generate")
        self.assertEqual(json.loads((out / "predictions.jsonl").read_text())["gold"], "AB")

    def test_dry_run_prints_the_plan(self):
        flags = ("--dry_run", "true", "--limit", "4", "--baseline", "true", *self.adapters("qlora"))
        plan = json.loads(self.eval("--json", "true", *flags).stdout)
        self.assertEqual((plan["rows"], plan["tasks"]), (4, ["perplexity"]))
        self.assertEqual([run["name"] for run in plan["runs"]], ["base", "qlora"])
        self.assertEqual([run["load_in_4bit"] for run in plan["runs"]], [True, True])
        base, tuned = (run["bytes"] for run in plan["runs"])
        for parts in (base, tuned):
            self.assertEqual(parts["total"], sum(count for kind, count in parts.items() if kind != "total"))
        self.assertEqual((base["weights"], base["adapter"]), (tuned["weights"], 0))
        self.assertGreater(tuned["adapter"], 0)
        self.assertGreater(base["evaluation"], 0)
        self.assertGreater(plan["estimated_seconds"], 0)
        dense = json.loads(self.eval("--json", "true", "--load_in_4bit", "false", *flags).stdout)["runs"][0]["bytes"]
        self.assertGreater(dense["weights"], base["weights"])
        text = self.eval(*flags).stdout
        self.assertTrue(text.startswith("4 rows; tasks: perplexity; runs: base, qlora\nbase\n"), text)
        self.assertIn("\ntime        about", text)

    def test_a_failure_leaves_the_old_report_whole(self):
        out = self.root / "out"
        out.mkdir()
        (out / "note").write_text("mine")
        names = {"note", "report.json", "report.html", "predictions.jsonl"}
        self.eval("--output_dir", out, "--limit", "1")
        self.assertEqual({p.name for p in out.iterdir()}, names)
        before = {p.name: p.read_bytes() for p in out.iterdir()}
        largest = len(before["report.html"])
        self.assertLess(len(before["predictions.jsonl"]), largest - 1)

        def full_disk():  # between the smaller files and the page
            tiny_model.without_file_size_signal()
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, largest - 1))
        result = self.eval("--output_dir", out, "--limit", "2", code=1, preexec_fn=full_disk)
        self.assertIn("report.html", result.stderr)
        after = {p.name: p.read_bytes() for p in out.iterdir()}
        self.assertEqual(len(after.pop("predictions.partial.jsonl").splitlines()), 3)  # rows need no second run
        self.assertEqual(after, before)


if __name__ == "__main__":
    unittest.main(verbosity=2)
