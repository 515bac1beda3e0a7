"""`eval_tasks` of `qlora train`: scores at every evaluation, which change no number of the training itself."""
import json
import shutil
import signal
import unittest

import tiny_model
from train_test import STEPS, TrainRuns, metrics, numbers

DEMO = tiny_model.SOURCE / "data/demo"
TASKS = {"spider": ["parsed", "exact", "execution", "exact_string", "exact_normalized", "token_match", "syntax_valid",
                    "exact_with_values", "answer_only"],
         "generate": ["exact_string", "bleu", "chrf", "rouge1", "rouge2", "rougeL"],
         "perplexity": ["nll", "loss", "perplexity"]}
SCORES = [f"eval_{task}_{score}" for task, scores in TASKS.items() for score in scores]
SPIDER = {"dataset": f"{{path: {DEMO / 'train.json'}, limit: 30}}", "eval_tasks": "spider,generate,perplexity",
          "max_eval_samples": 4, "max_new_tokens": 6}


def scores(folder):
    """The scores of each evaluation, by its step."""
    return {line["step"]: [line[name] for name in SCORES] for line in metrics(folder) if "eval_loss" in line}


class EvalTasksTest(TrainRuns):
    def test_scores_are_everywhere_and_training_is_the_same(self):
        with_tasks, without = self.out / "with", self.out / "without"
        keys = {**SPIDER, "max_steps": 10}
        plan = json.loads(self.succeed(with_tasks, "--dry-run", "--json", **keys).stdout)
        result = json.loads(self.succeed(with_tasks, "--json", **keys).stdout)
        self.succeed(without, **{**keys, "eval_tasks": "[]"})
        self.assertEqual(numbers(with_tasks), numbers(without))
        for name in ("adapter_model.safetensors", "checkpoint-9/optimizer.safetensors"):
            self.assertEqual((with_tasks / name).read_bytes(), (without / name).read_bytes())
        self.assertEqual(set(scores(with_tasks)), {5, 10})
        self.assertGreater(plan["bytes"]["evaluation"], 0)
        self.assertAlmostEqual(plan["bytes"]["total"] / 2**30, result["memory_allocated_gib"], places=9)
        history = json.loads((with_tasks / "trainer_state.json").read_text())["log_history"]
        logged = {line["step"]: [line[name] for name in SCORES] for line in history if "eval_loss" in line}
        self.assertEqual(logged, scores(with_tasks))
        [events] = (with_tasks / "runs").iterdir()
        page = (with_tasks / "report.html").read_text()
        for name in SCORES:
            self.assertIn(name.replace("eval_", "eval/", 1).encode(), events.read_bytes())
            self.assertIn(name.removeprefix("eval_"), page)

    def test_scores_are_those_of_eval(self):
        whole = json.loads((DEMO / "dev.json").read_text())[:4]
        folder = self.root / "dev"
        shutil.copytree(DEMO, folder)
        (folder / "dev.json").write_text(json.dumps(whole))
        out = self.out / "named"
        self.succeed(out, **{**SPIDER, "val_size": 0, "eval_dataset": folder / "dev.json", "max_steps": 5})
        for other in ((), ("--limit", 2)):
            result = tiny_model.run("eval", "--model_name_or_path", self.model, "--adapter", out, "--eval_dataset",
                                    folder / "dev.json", "--tasks", SPIDER["eval_tasks"], "--max_new_tokens", 6, "--device",
                                    "cpu", "--json", "--quiet", *other)
            self.assertEqual(result.returncode, 0, result.stderr)
            [run] = json.loads(result.stdout)["runs"].values()
            found = [run["tasks"][task]["overall"][score] for task, names in TASKS.items() for score in names]
            if other:
                self.assertNotEqual(found, scores(out)[5], "the comparison would not see a difference")
            else:
                self.assertEqual(found, scores(out)[5])

    def test_killed_runs_end_as_if_they_had_not_been(self):
        whole, cut = self.out / "whole", self.out / "cut"
        keys = {**SPIDER, "metric_for_best_model": "generate_chrf", "load_best_model_at_end": "true"}
        self.succeed(whole, **keys)
        for at_step, number in zip(sorted(self.random.sample(range(1, STEPS // 2), 4)),
                                   (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM)):
            code = self.interrupt(cut, number, at_step, **keys)
            self.assertEqual(code, 143 if number == signal.SIGTERM else -number, self.stderr)
        self.succeed(cut, **keys)
        self.same_end(cut, whole, ["adapter_model.safetensors"])
        self.assertEqual(scores(cut), scores(whole))

    def test_the_best_checkpoint_is_that_of_the_named_score(self):
        for metric, best_of in (("eval_perplexity_nll", min), ("generate_chrf", max), ("spider_token_match", max)):
            out = self.out / metric
            keys = {**SPIDER, "max_steps": 20, "metric_for_best_model": metric, "load_best_model_at_end": "true",
                    "learning_rate": "3e-2"}
            self.succeed(out, **keys)
            name = "eval_" + metric.removeprefix("eval_")
            by_step = {line["step"]: line[name] for line in metrics(out) if "eval_loss" in line}
            best = best_of(by_step.values())
            step = min(step for step, value in by_step.items() if value == best)
            state = json.loads((out / "trainer_state.json").read_text())
            self.assertEqual((state["best_metric"], state["best_global_step"]), (best, step), by_step)
            self.assertEqual((out / "adapter_model.safetensors").read_bytes(),
                             (out / f"checkpoint-{step}/adapter_model.safetensors").read_bytes())
        worst = {**keys, "greater_is_better": "false"}
        self.succeed(self.out / "worst", **worst)
        self.assertEqual(json.loads((self.out / "worst/trainer_state.json").read_text())["best_metric"],
                         min(by_step.values()))

    def test_stops_early_by_a_score(self):
        self.succeed(self.out, **{**SPIDER, "metric_for_best_model": "spider_exact", "early_stopping_patience": 2})
        self.assertEqual(list(scores(self.out)), [5, 10, 15])  # no exact match of a random model: the first is the best

    def test_what_cannot_be_scored_is_refused_first(self):
        refuse = lambda message, **keys: self.refused(2, message, self.out, **{**SPIDER, **keys})
        refuse("gives no 'accuracy'", metric_for_best_model="accuracy")
        refuse("eval_spider_execution", metric_for_best_model="mmlu_acc")
        refuse("needs eval_strategy", eval_strategy="no")
        refuse("mmlu_dir", eval_tasks="mmlu")
        bare = self.root / "bare.jsonl"
        bare.write_text('{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]}\n')
        refuse("carries an answer", dataset=self.rows, val_size=0, eval_dataset=bare, eval_tasks="generate",
               metric_for_best_model="generate_bleu")
        self.assertFalse(self.out.exists())

    def test_their_keys_matter_only_with_them(self):
        keys = {"max_steps": 5, "dataset": SPIDER["dataset"]}
        self.succeed(self.out / "without", **keys)
        self.succeed(self.out / "without", **keys, max_new_tokens=9, max_eval_samples=2, extract="sql")
        self.succeed(self.out / "with", **{**SPIDER, **keys})
        self.refused(2, "another max_eval_samples, max_new_tokens", self.out / "with",
                     **{**SPIDER, **keys, "max_new_tokens": 9, "max_eval_samples": 2})


if __name__ == "__main__":
    unittest.main(verbosity=2)
