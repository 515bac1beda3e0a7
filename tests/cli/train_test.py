"""`qlora train` from the outside: it ends as if never interrupted, refuses what changed, and writes what it says."""
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import tiny_model

STEPS = 60  # a step takes some 10 ms: a run must not end before its signal comes
SEED = int(os.environ.get("QLORA_TEST_SEED", "7"))


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def numbers(folder):
    """What must be equal from run to run, a tuple a line."""
    keys = ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "input_tokens", "eval_loss")
    return [tuple(line.get(key) for key in keys) for line in metrics(folder)]


def no_file_above(size):
    def limit():
        tiny_model.without_file_size_signal()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return limit


class TrainRuns(unittest.TestCase):
    """What tests of training share: a tiny model, rows, and ways to start, end and compare runs."""
    @classmethod
    def setUpClass(cls):
        cls.root = pathlib.Path(tempfile.mkdtemp(prefix="qlora-train-"))
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.model = tiny_model.make_model(cls.root / "model")
        cls.rows = tiny_model.write_rows(cls.root / "rows.jsonl", 30)
        cls.random = random.Random(SEED)

    def setUp(self):
        self.out = self.root / self.id().rsplit(".", 1)[-1]

    def flags(self, out, **keys):
        settings = {"model_name_or_path": self.model, "dataset": self.rows, "output_dir": out, "val_size": 6,
                    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": STEPS,
                    "learning_rate": "3e-3", "lora_r": 4, "lora_dropout": 0.1, "weight_decay": 0.01, "logging_steps": 1,
                    "save_steps": 3, "eval_strategy": "steps", "eval_steps": 5, "device": "cpu", "quiet": "true"}
        settings.update(keys)
        return [part for key, value in settings.items() for part in (f"--{key}", value)]

    def train(self, out, *more, preexec=None, **keys):
        return tiny_model.run("train", *self.flags(out, **keys), *more, preexec_fn=preexec)

    def succeed(self, out, *more, **keys):
        result = self.train(out, *more, **keys)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def refused(self, code, message, out, **keys):
        result = self.train(out, **keys)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertIn(message, result.stderr)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)

    def interrupt(self, out, number, at_step, **keys):
        """Ends a run by a signal once it has logged `at_step` steps, and one of its own; its exit code."""
        log = out / "metrics.jsonl"
        logged = lambda: log.read_text().count('"loss"') if log.exists() else 0
        before = logged()
        process = subprocess.Popen(tiny_model.command("train", *self.flags(out, **keys)), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if logged() != before and logged() >= at_step:
                break
            time.sleep(0.002)
        time.sleep(self.random.random() * 0.02)
        process.send_signal(number)
        self.stderr = process.communicate(timeout=300)[1]
        return process.returncode

    def same_end(self, cut, whole, weights):
        self.assertEqual(numbers(cut), numbers(whole))
        for name in [*weights, f"checkpoint-{STEPS}/optimizer.safetensors"]:
            self.assertEqual((cut / name).read_bytes(), (whole / name).read_bytes(), name)
        self.assertEqual([p.name for p in cut.iterdir() if p.name.startswith("tmp-")], [])


class TrainTest(TrainRuns):
    def check_resume(self, weights, signals, **keys):
        whole, cut = self.out / "whole", self.out / "cut"
        self.succeed(whole, **keys)
        for at_step, number in zip(sorted(self.random.sample(range(1, STEPS // 2), len(signals))), signals):
            code = self.interrupt(cut, number, at_step, **keys)
            expected = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
            self.assertEqual(code, expected, f"after step {at_step}: {self.stderr}")
        self.succeed(cut, **keys)
        self.same_end(cut, whole, weights)

    def test_killed_qlora_run_ends_as_if_it_had_not_been(self):
        self.check_resume(["adapter_model.safetensors", "adapter_config.json"], [signal.SIGKILL] * 4)

    def test_stopped_qlora_run_ends_as_if_it_had_not_been(self):
        self.check_resume(["adapter_model.safetensors"], [signal.SIGTERM, signal.SIGINT, signal.SIGTERM])

    def test_killed_run_with_magnitudes_noise_and_a_whole_head_ends_as_if_it_had_not_been(self):
        self.check_resume(["adapter_model.safetensors"], [signal.SIGKILL, signal.SIGTERM], use_dora="true",
                          modules_to_save="lm_head", neftune_noise_alpha=5, loraplus_lr_ratio=4)

    def test_killed_full_run_ends_as_if_it_had_not_been(self):
        self.check_resume(["model.safetensors"], [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL], method="full")

    def test_a_signal_leaves_a_valid_checkpoint_of_its_step(self):
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            out = self.out / str(code)
            self.assertEqual(self.interrupt(out, number, 2, save_steps=1000), code, self.stderr)
            self.assertIn("stopped by", self.stderr)
            [checkpoint] = out.glob("checkpoint-*")
            manifest = json.loads((checkpoint / "manifest.json").read_text())
            self.assertIn("adapter_model.safetensors", manifest["files"])
            self.assertFalse((out / "adapter_model.safetensors").exists())

    def test_finished_run_prints_its_result_and_a_change_is_named(self):
        first = json.loads(self.succeed(self.out, "--json", max_steps=4).stdout)
        self.assertEqual(set(first), {"output_dir", "steps", "kept_step", "train_loss", "eval_loss", "tokens", "input_tokens",
                                      "seconds",
                                      "tokens_per_second", "memory_allocated_gib", "memory_used_gib"})
        before = (self.out / "adapter_model.safetensors").stat().st_mtime_ns
        self.assertEqual(json.loads(self.succeed(self.out, "--json", max_steps=4).stdout), first)
        self.assertEqual((self.out / "adapter_model.safetensors").stat().st_mtime_ns, before)
        self.refused(2, "another lora_r, learning_rate", self.out, max_steps=4, lora_r=8, learning_rate="1e-3")
        (self.out / "train_results.json").unlink()  # as if the end had not been reached
        self.refused(2, "another lora_r", self.out, max_steps=4, lora_r=8)
        self.succeed(self.out, max_steps=4, lora_r=8, resume_from_checkpoint="none")

    def test_writes_what_is_documented(self):
        self.succeed(self.out, max_steps=6, save_steps=2, save_total_limit=2)
        names = {path.name for path in self.out.iterdir()}
        self.assertEqual(names, {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json",
                                 "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "README.md",
                                 "trainer_state.json", "metrics.jsonl", "config.yaml", "report.html", "runs",
                                 "train_results.json", "checkpoint-4", "checkpoint-6"})
        step = metrics(self.out)[0]
        self.assertEqual(list(step), ["step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "input_tokens",
                                      "tokens_per_second", "step_ms", "memory_allocated_gib", "memory_used_gib"])
        peaks = [line["memory_allocated_gib"] for line in metrics(self.out) if "loss" in line]
        self.assertEqual(peaks, sorted(peaks))
        state = json.loads((self.out / "trainer_state.json").read_text())
        self.assertEqual((state["global_step"], state["max_steps"]), (6, 6))
        page = (self.out / "report.html").read_text()
        for word in ("<svg", "Loss", "Learning rate", "Evaluations"):
            self.assertIn(word, page)
        [events] = (self.out / "runs").iterdir()
        self.assertRegex(events.name, r"^events\.out\.tfevents\.\d{10}\.")
        self.assertIn(b"train/loss", events.read_bytes())
        self.assertIn(b"eval/loss", events.read_bytes())
        self.succeed(self.out, config=self.out / "config.yaml", max_steps=6, save_steps=2, report_to="none",
                     resume_from_checkpoint="none")
        self.assertFalse((self.out / "runs").exists())

    def quantized_model(self):
        """The model with an adapter merged into it, in NF4."""
        self.succeed(self.out / "adapter", max_steps=1)
        done = tiny_model.run("merge", "--model_name_or_path", self.model, "--adapter", self.out / "adapter", "--output_dir",
                              self.out / "nf4", "--quantize", "nf4", "--quiet")
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.out / "nf4"

    def test_a_checkpoint_in_nf4_is_trained_over_as_it_is(self):
        model = self.quantized_model()
        for method in ("lora", "full"):
            self.refused(2, "the checkpoint's weights are NF4", self.out / method, model_name_or_path=model, method=method)
        self.assertFalse((self.out / "lora").exists())
        result = tiny_model.run("eval", "--model_name_or_path", model, "--load_in_4bit", "false", "--tasks", "perplexity",
                                "--eval_dataset", self.rows, "--quiet")
        self.assertEqual(result.returncode, 2)
        self.assertIn("load_in_4bit: false contradicts the checkpoint", result.stderr)

    def test_adapter_keys_without_effect_are_named(self):
        log = self.succeed(self.out, "--dry-run", method="full", lora_r=4, use_dora="true").stderr
        self.assertRegex(log, "method full trains no adapter; without effect: .*lora_r.*use_dora")

    def test_modules_to_save_that_are_none_are_refused(self):
        for name, words in (("mlp", "'mlp' is no module of this model that is trained whole; there are: embed_tokens, input_layernorm"),
                            ("q_proj", "'q_proj' names linears of the blocks")):
            self.refused(2, words, self.out, modules_to_save=name, lora_target_modules="o_proj")
        self.refused(2, "use_dora: not supported yet on 'lm_head'", self.out, use_dora="true", lora_target_modules="lm_head")
        self.assertFalse(self.out.exists())

    def test_dry_run_says_what_a_run_then_needs(self):
        whole = {"modules_to_save": "lm_head,norm", "lora_target_modules": "all-linear"}
        apart = {"lora_target_modules": "q_proj,embed_tokens,lm_head", "neftune_noise_alpha": 5}
        cases = [("qlora", "qlora", {}), ("lora", "lora", {}), ("full", "full", {"neftune_noise_alpha": 5}),
                 ("stored", "qlora", {"model_name_or_path": self.quantized_model()}), ("dora", "qlora", {"use_dora": "true"}), ("whole", "qlora", whole), ("apart", "lora", apart)]
        for name, method, more in cases:
            out = self.out / name
            keys = {"max_steps": -1, "num_train_epochs": 1, "method": method, "eval_strategy": "no", **more}
            plan = json.loads(self.succeed(out, "--dry-run", "--json", **keys).stdout)
            self.assertFalse(out.exists())
            result = json.loads(self.succeed(out, "--json", **keys).stdout)
            self.assertEqual((plan["rows"], plan["eval_rows"], plan["steps"]), (24, 6, result["steps"]))
            self.assertEqual(plan["bytes"]["total"], sum(v for k, v in plan["bytes"].items() if k != "total"))
            self.assertAlmostEqual(plan["bytes"]["total"] / 2**30, result["memory_allocated_gib"], places=9)
            self.assertEqual(plan["host_bytes"], {"embedding": 0, "optimizer": 0, "block_inputs": 0}, "the CPU's memory is the host's")
            self.assertGreater(plan["estimated_seconds"], 0)
        (self.model / "model.safetensors").rename(self.root / "aside")
        try:
            text = self.succeed(self.out / "text", "--dry-run").stdout
            self.assertIn("activations", text)
        finally:
            (self.root / "aside").rename(self.model / "model.safetensors")

    def test_a_plan_needs_no_output_dir(self):
        flags = self.flags(self.out)
        at = flags.index("--output_dir")
        nowhere = flags[:at] + flags[at + 2:]
        plan = tiny_model.run("train", *nowhere, "--dry-run", "--json")
        self.assertEqual(plan.returncode, 0, plan.stderr)
        self.assertEqual(json.loads(plan.stdout)["steps"], STEPS)
        run = tiny_model.run("train", *nowhere)
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("output_dir: missing", run.stderr)

    def test_a_dry_run_refuses_what_the_run_would(self):
        keys = {"max_steps": 2, "save_steps": 2, "eval_strategy": "no"}
        self.succeed(self.out / "done", **keys)
        before = numbers(self.out / "done")
        (self.root / "file").write_text("")
        other = tiny_model.write_rows(self.root / "other.jsonl", 31)
        for dry in (["--dry-run"], []):
            for code, message, out, more in (
                    (2, "is a file, no folder", self.root / "file", {}),
                    (2, "was written by a run with another learning_rate", self.out / "done", {"learning_rate": 5}),
                    (2, "with another dataset or eval_dataset", self.out / "done", {"dataset": other}),
                    (3, "manifest.json is missing", self.out / "new", {"resume_from_checkpoint": self.out / "none"})):
                result = self.train(out, *dry, **{**keys, **more})
                self.assertEqual(result.returncode, code, result.stderr)
                self.assertIn(message, result.stderr)
        self.assertFalse((self.out / "new").exists())
        self.assertEqual(numbers(self.out / "done"), before)

    def test_the_same_run_by_other_words_is_the_same(self):
        keys = {"max_steps": 2, "save_steps": 2, "eval_strategy": "no"}
        self.succeed(self.out, **keys)
        os.symlink(self.model, self.root / "linked-model")
        for more in ({"model_name_or_path": self.root / "linked-model"}, {"dtype": "float32"},
                     {"resume_from_checkpoint": "true"}):
            self.assertIn("finished already", self.succeed(self.out, **{**keys, **more}, quiet="false").stderr)

    def test_templates_are_those_of_the_last_run(self):
        keys = {"max_steps": 1, "save_strategy": "no", "eval_strategy": "no", "resume_from_checkpoint": "none"}
        model = self.out / "model"
        shutil.copytree(self.model, model)
        (model / "additional_chat_templates").mkdir()
        (model / "additional_chat_templates/tool_use.jinja").write_text("{{ tools }}{{ messages[-1].content }}")
        copy = self.out / "run/additional_chat_templates/tool_use.jinja"
        for _ in range(2):
            self.succeed(self.out / "run", model_name_or_path=model, **keys)
            self.assertTrue(copy.exists())
        self.succeed(self.out / "run", model_name_or_path=model, chat_template="chatml", **keys)
        self.assertFalse(copy.parent.exists(), "chatml renders tools itself")

    def test_two_runs_do_not_share_a_folder(self):
        first = subprocess.Popen(tiny_model.command("train", *self.flags(self.out, max_steps=100000)),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 300
            while not (self.out / "metrics.jsonl").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            self.refused(2, "another run writes into", self.out, max_steps=100000)
        finally:
            first.kill()
            first.wait()

    def test_the_config_beside_the_metrics_is_theirs(self):
        for seed in (1, 99):
            keys = {"seed": seed, "save_strategy": "no"}
            self.assertEqual(self.interrupt(self.out, signal.SIGKILL, 2, **keys), -signal.SIGKILL, self.stderr)
            self.assertIn(f"seed: {seed}\n", (self.out / "config.yaml").read_text())

    def test_the_model_is_never_written_over(self):
        before = {path.name: path.read_bytes() for path in self.model.iterdir()}
        self.refused(2, "the model's own folder", self.model)
        self.assertEqual({path.name: path.read_bytes() for path in self.model.iterdir()}, before)

    def test_memory_is_limited_or_the_run_refused(self):
        free = json.loads(self.succeed(self.out / "free", "--json", max_steps=4).stdout)["memory_allocated_gib"]
        limited = json.loads(self.succeed(self.out / "limited", "--json", max_steps=4, max_memory_gib=free * 0.999).stdout)
        self.assertLess(limited["memory_allocated_gib"], free)
        self.assertEqual(numbers(self.out / "free"), numbers(self.out / "limited"))
        self.refused(4, "max_memory_gib", self.out / "refused", max_steps=4, max_memory_gib=free / 100)

    def test_recomputing_changes_no_number(self):
        for name, value in (("kept", "false"), ("again", "true")):
            self.succeed(self.out / name, max_steps=4, gradient_checkpointing=value)
        self.assertEqual(numbers(self.out / "kept"), numbers(self.out / "again"))
        peak = [metrics(self.out / name)[0]["memory_allocated_gib"] for name in ("kept", "again")]
        self.assertGreater(peak[0], peak[1])

    def test_fp8_rounds_the_products_of_a_base_in_4_bits(self):
        for name in ("auto", "fp8"):
            self.succeed(self.out / name, max_steps=4, matmul_dtype=name)
        exact, rounded = (metrics(self.out / name)[0]["loss"] for name in ("auto", "fp8"))
        self.assertNotEqual(exact, rounded)
        self.assertLess(abs(rounded / exact - 1), 0.02)
        self.refused(2, "matmul_dtype: fp8 is for a base in 4 bits", self.out / "lora", matmul_dtype="fp8",
                     method="lora")
        self.refused(2, "matmul_dtype: fp8 does not go with use_dora", self.out / "dora", matmul_dtype="fp8",
                     use_dora="true")

    def test_damaged_checkpoint_is_passed_over_aloud(self):
        self.succeed(self.out / "whole")
        out = self.out / "cut"
        self.assertEqual(self.interrupt(out, signal.SIGTERM, 7), 143, self.stderr)
        newest = max(out.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        weights = newest / "optimizer.safetensors"
        data = bytearray(weights.read_bytes())
        data[-5] ^= 1
        weights.write_bytes(data)
        result = self.succeed(out)
        self.assertIn(f"{newest.name}: optimizer.safetensors is damaged", result.stderr)
        self.assertEqual(numbers(out), numbers(self.out / "whole"))

    def test_full_disk_leaves_what_was_there(self):
        self.succeed(self.out, max_steps=3, lora_r=64)
        before = {p: p.read_bytes() for p in self.out.rglob("*") if p.is_file()}
        weights = (self.out / "adapter_model.safetensors").stat().st_size
        again = {"max_steps": 3, "lora_r": 64, "seed": 1, "resume_from_checkpoint": "none", "save_strategy": "no"}
        result = self.train(self.out, preexec=no_file_above(weights - 1), **again)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        self.assertIn("adapter_model.safetensors", result.stderr)
        self.assertIn("bytes", result.stderr)
        self.assertEqual({p: p.read_bytes() for p in self.out.rglob("*") if p.is_file()}, before)
        self.assertEqual([p.name for p in self.out.iterdir() if p.name.startswith("tmp-")], [])

    def test_full_disk_at_a_checkpoint_keeps_the_earlier_one(self):
        keys = {"lora_r": 64, "save_steps": 1000}
        self.assertEqual(self.interrupt(self.out, signal.SIGTERM, 3, **keys), 143, self.stderr)
        [checkpoint] = self.out.glob("checkpoint-*")
        before = {p: p.read_bytes() for p in checkpoint.iterdir()}
        size = (checkpoint / "optimizer.safetensors").stat().st_size
        result = self.train(self.out, preexec=no_file_above(size - 1), **{**keys, "save_steps": 1})
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("optimizer.safetensors", result.stderr)
        self.assertEqual({p: p.read_bytes() for p in checkpoint.iterdir()}, before)
        self.assertEqual([p for p in self.out.iterdir() if p.name.startswith("tmp-")], [])
        self.succeed(self.out, **keys)

    def test_a_prepared_set_is_not_trained_under_other_options(self):
        source = ("--model_name_or_path", self.model, "--dataset", self.rows, "--output_dir", self.out / "set")
        self.assertEqual(tiny_model.run("prepare", *source, "--max_length", 200).returncode, 0)
        train = lambda *flags: tiny_model.run(
            "train", "--model_name_or_path", self.model, "--prepared_dir", self.out / "set", "--output_dir",
            self.out / "run", "--max_steps", 1, "--device", "cpu", *flags)
        for key, value in (("max_length", 20), ("assistant_only_loss", "false"), ("system_prompt", "You")):
            result = train(f"--{key}", value)
            self.assertEqual(result.returncode, 3, key)
            self.assertIn(key, result.stderr)
        self.assertEqual(train().returncode, 0)
        self.assertEqual(train("--max_length", 200, "--output_dir", self.out / "same").returncode, 0)

    def test_targets_that_are_no_modules_are_named(self):
        self.refused(2, "--lora_target_modules: the regular expression '.*(q_proj' is malformed", self.out,
                     lora_target_modules=".*(q_proj")
        self.refused(2, "'qproj' is no module of this model that carries an adapter; there are: down_proj", self.out,
                     lora_target_modules="v_proj,qproj")

    def test_a_finished_run_without_its_adapter_is_made_again(self):
        keys = {"max_steps": 2, "save_steps": 2, "eval_strategy": "no"}
        self.succeed(self.out, **keys)
        self.assertIn("| epochs | ", (self.out / "README.md").read_text())
        self.assertNotIn("| epochs | 1 |", (self.out / "README.md").read_text())  # two steps of many
        adapter = self.out / "adapter_model.safetensors"
        before = adapter.read_bytes()
        for damage in (adapter.unlink, lambda: adapter.write_bytes(before[:-1])):
            damage()
            self.assertIn("what it trained is not whole: ", self.succeed(self.out, **keys, quiet="false").stderr)
            self.assertEqual(adapter.read_bytes(), before)

    def test_starts_from_an_adapter(self):
        first = self.out / "first"
        self.succeed(first, max_steps=2, lora_alpha=8, lora_target_modules="q_proj,v_proj")
        start = {"max_steps": 2, "adapter_name_or_path": first}
        with_own = [part for part in self.flags(self.out / "second", **start)]
        at = with_own.index("--lora_r")
        del with_own[at:at + 2]
        result = tiny_model.run("train", *with_own)
        self.assertEqual(result.returncode, 0, result.stderr)
        config = json.loads((self.out / "second/adapter_config.json").read_text())
        self.assertEqual((config["r"], config["lora_alpha"], sorted(config["target_modules"])),
                         (4, 8, ["q_proj", "v_proj"]))
        self.assertLess(metrics(self.out / "second")[0]["loss"], metrics(first)[0]["loss"])
        self.succeed(self.out / "regex", max_steps=1, lora_target_modules=".*layers.0.*(q|v)_proj")
        config = json.loads((self.out / "regex/adapter_config.json").read_text())
        self.assertEqual(sorted(config["target_modules"]),
                         ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"])
        again = tiny_model.run("train", "--config", self.out / "second/config.yaml", "--output_dir", self.out / "again")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual(numbers(self.out / "again"), numbers(self.out / "second"))
        for key, value in (("lora_r", 2), ("lora_alpha", 5), ("lora_target_modules", "q_proj"), ("use_rslora", "true"),
                           ("lora_r", 16), ("lora_alpha", 32), ("lora_target_modules", "all-linear")):  # the defaults too
            self.refused(2, f"{key}: ", self.out / "third", **{**start, key: value})
        self.assertFalse((self.out / "third").exists())

    def test_divergence_stops_before_it_is_saved(self):
        result = self.train(self.out, learning_rate="1e30", save_steps=1, lr_scheduler_type="constant")
        self.assertEqual(result.returncode, 6, result.stderr)
        self.assertRegex(result.stderr, r"step \d+: .* in block \d+, micro-batch \d+ \(rows ")
        step = int(result.stderr.split("step ")[1].split(":")[0])
        saved = [int(p.name.split("-")[1]) for p in self.out.glob("checkpoint-*")]
        self.assertEqual(max(saved), step - 1)
        self.assertFalse((self.out / "adapter_model.safetensors").exists())

    def test_best_model_and_early_stopping(self):
        self.succeed(self.out, max_steps=40, learning_rate="0.3", lr_scheduler_type="constant", eval_steps=1,
                     save_strategy="no", load_best_model_at_end="true", early_stopping_patience=2)
        state = json.loads((self.out / "trainer_state.json").read_text())
        self.assertLess(state["global_step"], 40)
        self.assertEqual(state["global_step"], state["best_global_step"] + 2)
        best = self.out / f"checkpoint-{state['best_global_step']}"
        self.assertEqual(state["best_model_checkpoint"], str(best))
        self.assertEqual((self.out / "adapter_model.safetensors").read_bytes(),
                         (best / "adapter_model.safetensors").read_bytes())
        # What is said of the result is said of the weights that are kept.
        result = json.loads((self.out / "train_results.json").read_text())["result"]
        losses = {line["step"]: line["eval_loss"] for line in metrics(self.out) if "eval_loss" in line}
        self.assertEqual(result["kept_step"], state["best_global_step"])
        self.assertEqual(result["eval_loss"], losses[result["kept_step"]])
        self.assertNotEqual(result["eval_loss"], losses[result["steps"]])
        self.assertIn(f"{result['eval_loss']:.4f}", (self.out / "README.md").read_text())


if __name__ == "__main__":
    unittest.main(verbosity=2)
