"""Bad input of train, eval and merge: one line on stderr that names cause and place, the documented exit code, and no
output left behind. Beside each refusal the same input, unspoilt, is accepted."""
import json
import pathlib
import shutil
import struct
import tempfile
import unittest

import tiny_model

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


class BadInputTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.base = pathlib.Path(tempfile.mkdtemp(prefix="qlora-bad-"))
        cls.addClassCleanup(shutil.rmtree, cls.base)
        cls.good = tiny_model.make_model(cls.base / "model")
        cls.rows = tiny_model.write_rows(cls.base / "rows.jsonl", 8)
        result = tiny_model.run("train", *cls.train_flags(cls.good, cls.base / "adapter"))
        assert result.returncode == 0, result.stderr
        cls.adapter = cls.base / "adapter"

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(dir=self.base))
        self.out = self.root / "out"
        self.model = self.root / "model"
        shutil.copytree(self.good, self.model)

    @classmethod
    def train_flags(cls, model, out, **keys):
        settings = {"model_name_or_path": model, "dataset": cls.rows, "output_dir": out, "max_steps": 1,
                    "per_device_train_batch_size": 2, "lora_r": 2, "device": "cpu", "quiet": "true"}
        settings.update(keys)
        return [part for key, value in settings.items() if value is not None for part in (f"--{key}", value)]

    def check(self, result, code, *parts, lines=1):
        self.assertEqual(result.returncode, code, result.stderr)
        errors = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
        self.assertEqual(len(errors), lines, result.stderr)
        for part in parts:
            self.assertIn(str(part), result.stderr)
        self.assertFalse(self.out.exists(), "a refused run must leave no output")
        self.assertEqual([p.name for p in self.root.iterdir() if p.name.startswith("tmp-")], [])

    def train(self, code, *parts, **keys):
        lines = keys.pop("lines", 1)
        flags = self.train_flags(self.model, self.out, **keys)
        self.check(tiny_model.run("train", *flags), code, *parts, lines=lines)

    def eval(self, code, *parts, lines=1, **keys):
        settings = {"model_name_or_path": self.model, "tasks": "perplexity", "eval_dataset": self.rows,
                    "output_dir": self.out, "device": "cpu", "quiet": "true", **keys}
        flags = [part for key, value in settings.items() if value is not None for part in (f"--{key}", value)]
        self.check(tiny_model.run("eval", *flags), code, *parts, lines=lines)

    def merge(self, code, *parts, **keys):
        settings = {"model_name_or_path": self.model, "adapter": self.adapter, "output_dir": self.out, "quiet": "true",
                    **keys}
        flags = [part for key, value in settings.items() if value is not None for part in (f"--{key}", value)]
        self.check(tiny_model.run("merge", *flags), code, *parts)

    def everywhere(self, code, *parts):
        """What is wrong with the model is wrong in every command."""
        self.train(code, *parts)
        self.eval(code, *parts)
        self.merge(code, *parts)

    def spoil_weights(self, name=Q_PROJ, *, value=None, shape=None, dtype=None, drop=False):
        tensors, data = tiny_model.read_tensors(self.model / "model.safetensors")
        spoilt = {}
        for key, (kind, dims, begin, end) in tensors.items():
            body = bytearray(data[begin:end])
            if key == name:
                if drop:
                    continue
                if value is not None:
                    body[20:24] = struct.pack("<f", value)
                kind, dims = dtype or kind, shape or dims
            spoilt[key] = (kind, dims, bytes(body))
        tiny_model.write_tensors(self.model / "model.safetensors", spoilt)

    def edit_config(self, **changes):
        config = json.loads((self.model / "config.json").read_text())
        (self.model / "config.json").write_text(json.dumps({k: v for k, v in {**config, **changes}.items() if v != "-"}))

    def test_the_unspoilt_input_is_accepted(self):
        self.spoil_weights()  # rewritten as it is
        for name, flags in (("train", self.train_flags(self.model, self.out)),
                            ("eval", ["--model_name_or_path", self.model, "--tasks", "perplexity", "--eval_dataset",
                                      self.rows, "--output_dir", self.root / "scores", "--adapter", self.adapter]),
                            ("merge", ["--model_name_or_path", self.model, "--adapter", self.adapter, "--output_dir",
                                       self.root / "merged"])):
            result = tiny_model.run(name, *flags)
            self.assertEqual(result.returncode, 0, result.stderr)

    def test_missing_model(self):
        shutil.rmtree(self.model)
        self.everywhere(3, f"{self.model}", "no folder")

    def test_missing_config(self):
        (self.model / "config.json").unlink()
        self.everywhere(3, self.model / "config.json")

    def test_missing_weights_file(self):
        (self.model / "model.safetensors").unlink()
        self.everywhere(3, f"{self.model}", "safetensors")

    def test_missing_tokenizer(self):
        (self.model / "tokenizer.json").unlink()
        self.train(3, f"{self.model}", "tokenizer")
        self.eval(3, f"{self.model}", "tokenizer")

    def test_malformed_config(self):
        (self.model / "config.json").write_text('{"model_type": "qwen2",\n "hidden_size": ]}')
        self.everywhere(3, f"{self.model / 'config.json'}:2:")

    def test_config_without_a_field(self):
        self.edit_config(hidden_size="-")
        self.everywhere(3, "config.json", "hidden_size")

    def test_config_with_a_wrong_type(self):
        self.edit_config(hidden_size="wide")
        self.everywhere(3, "config.json", "hidden_size")

    def test_unknown_model_type(self):
        self.edit_config(model_type="parrot")
        self.everywhere(2, "parrot", "qwen2", "llama")

    def test_nan_in_weights(self):
        for value in (float("nan"), float("inf")):
            self.spoil_weights(value=value)
            self.train(3, Q_PROJ, self.model / "model.safetensors", "NaN or Inf")
            self.train(3, Q_PROJ, self.model / "model.safetensors", method="full")
            self.eval(3, Q_PROJ, self.model / "model.safetensors")
            self.merge(3, Q_PROJ, self.model / "model.safetensors", "NaN or Inf")
            self.merge(3, Q_PROJ, self.model / "model.safetensors", "NaN or Inf", merge_into="dequantized")

    def test_shape_mismatch(self):
        self.spoil_weights(shape=[16, 64])
        self.train(3, Q_PROJ, self.model / "model.safetensors", "[16, 64]", "[32, 32]")
        self.eval(3, Q_PROJ, "[16, 64]", "[32, 32]")
        self.merge(3, Q_PROJ.removesuffix(".weight"))

    def test_missing_weight(self):
        self.spoil_weights(drop=True)
        self.train(3, f"{self.model}", Q_PROJ, "missing")
        self.eval(3, Q_PROJ)
        self.merge(3, Q_PROJ)

    def test_weights_that_are_no_floats(self):
        self.spoil_weights(dtype="I32")
        self.train(3, Q_PROJ, "I32")

    def test_truncated_weights(self):
        path = self.model / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        self.everywhere(3, path)
        path.write_bytes(path.read_bytes()[:5])
        self.everywhere(3, path)

    def test_pickled_weights(self):
        (self.model / "model.safetensors").unlink()
        (self.model / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
        self.everywhere(3, "pytorch_model.bin")

    def test_config_keys(self):
        self.train(2, "learning_rat", "learning_rate", learning_rat="1")
        self.train(2, "lora_r", "many", lora_r="many")
        self.train(2, "lora_r", lora_r="0")
        config = self.root / "run.yaml"
        config.write_text("lora_r: 4\nlearning_rate: fast\n")
        self.train(2, f"{config}:2:", "learning_rate", config=config)
        config.write_text("lora_r: 4\nlora_r: 8\n")
        self.train(2, f"{config}:2:", "lora_r", config=config, lora_r=None)
        config.write_text("lora_r: &x [*x]\n")
        self.train(2, f"{config}:1:9: an alias stands inside of what it stands for", config=config, lora_r=None)
        self.train(2, "an entry names no path", dataset="{format: text}")
        config.write_text("lora_r: [4\n")
        self.train(2, f"{config}:", config=config, lora_r=None)

    def test_template(self):
        bad = self.root / "bad.jinja"
        bad.write_text("{% for m in messages %}{{ m.content }}")
        self.train(3, f"{bad}:1:39: unexpected end", "^", chat_template=bad, lines=3)  # with the line and a caret
        bad.write_text("{{ raise_exception('no such role') }}")
        self.train(3, f"{self.rows}:1: {bad}:1:19: no such role", chat_template=bad, lines=3)
        self.eval(3, f"{bad}:1:19: no such role", chat_template=bad, lines=3)

    def test_token_outside_the_vocabulary(self):
        self.edit_config(vocab_size=1000)
        self.train(3, "vocab", "1000")

    def test_rows(self):
        rows = self.root / "rows.jsonl"
        rows.write_text("")
        self.train(3, rows, dataset=rows)
        rows.write_text('{"messages": [{"role": "user", "content": "a"}]}\n{]\n')
        self.train(3, f"{rows}:2", dataset=rows)
        self.train(3, self.root / "absent.jsonl", dataset=self.root / "absent.jsonl")
        self.train(2, "eval_dataset", eval_strategy="steps")
        self.train(3, max_length=4)

    def test_eval_without_rows(self):
        empty = self.root / "empty.jsonl"
        empty.write_text("")
        self.eval(2, "eval_dataset", eval_dataset=None)
        self.eval(3, empty, eval_dataset=empty)
        self.eval(3, self.root / "absent.jsonl", eval_dataset=self.root / "absent.jsonl")

    def test_adapters(self):
        self.merge(2, "adapter", adapter=None)
        self.merge(3, self.root / "absent", adapter=self.root / "absent")
        self.eval(3, self.root / "absent", adapter=self.root / "absent")
        broken = self.root / "adapter"
        shutil.copytree(self.adapter, broken)
        weights = broken / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-8])
        self.merge(3, weights, adapter=broken)
        self.eval(3, weights, adapter=broken)
        self.train(3, weights, adapter_name_or_path=broken)
        weights.unlink()
        self.merge(3, broken, adapter=broken)
        (broken / "adapter_model.bin").write_bytes(b"\x80\x02}q\x00.")
        self.merge(3, "adapter_model.bin", adapter=broken)

    def test_adapter_for_another_base(self):
        shutil.rmtree(self.model)
        tiny_model.make_model(self.model, intermediate_size=48)
        self.merge(3, "mlp", "48", "64")
        self.eval(3, "mlp", "48", "64", adapter=self.adapter)
        self.train(3, "mlp", "48", "64", adapter_name_or_path=self.adapter)
        shutil.rmtree(self.model)
        tiny_model.make_model(self.model, num_hidden_layers=1)
        self.merge(3, "model.layers.1.")
        self.eval(3, "model.layers.1.", adapter=self.adapter)

    def output(self, command, code, out, *parts, **keys):
        """Runs a command with this output folder, and checks the code and the one line of a refusal."""
        flags = {"train": self.train_flags(self.model, out),
                 "prepare": ["--model_name_or_path", self.model, "--dataset", self.rows, "--output_dir", out],
                 "eval": ["--model_name_or_path", self.model, "--tasks", "perplexity", "--eval_dataset", self.rows,
                          "--output_dir", out],
                 "merge": ["--model_name_or_path", self.model, "--adapter", keys.get("adapter", self.adapter),
                           "--output_dir", out]}[command]
        result = tiny_model.run(command, *flags, "--quiet", "true")
        self.assertEqual(result.returncode, code, result.stderr)
        if code != 0:
            self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        for part in parts:
            self.assertIn(str(part), result.stderr)

    def test_an_output_folder_that_is_a_file(self):
        file = self.root / "notes.txt"
        file.write_text("mine")
        for command in ("prepare", "train", "eval", "merge"):
            self.output(command, 2, file, "is a file")
        self.output("train", 2, file / "deeper", "is a file")
        self.assertEqual(file.read_text(), "mine")

    def test_merge_replaces_nothing_but_an_earlier_merge(self):
        shared = self.root / "shared"
        shared.mkdir()
        (shared / "thesis.txt").write_text("mine")
        self.output("merge", 2, shared, "no earlier merge")
        self.output("merge", 2, self.model, "is what is merged")
        adapter = shutil.copytree(self.adapter, self.root / "adapter")
        self.output("merge", 2, adapter, "is what is merged", adapter=adapter)
        self.assertEqual((shared / "thesis.txt").read_text(), "mine")
        self.assertTrue((self.model / "config.json").exists() and (adapter / "adapter_config.json").exists())
        merged = self.root / "merged"
        plan = tiny_model.run("merge", "--model_name_or_path", self.model, "--adapter", adapter, "--dry_run", "--json",
                              "--dtype", "float32")
        for _ in range(2):
            self.output("merge", 0, merged)
        weights = (merged / "model.safetensors").read_bytes()
        header = 8 + int.from_bytes(weights[:8], "little")
        self.assertEqual(json.loads(plan.stdout)["bytes"], {"output": len(weights) - header}, plan.stderr)
        self.assertTrue((merged / "merge.json").exists())

    def test_train_removes_temporary_files_of_its_own_alone(self):
        out = self.root / "shared"
        for name in ("tmp-mine", "tmp-1a2b-3c"):
            (out / name).mkdir(parents=True)
        (out / "tmp-qlora-1f-2a").mkdir()
        self.output("train", 0, out)
        self.assertTrue((out / "tmp-mine").exists() and (out / "tmp-1a2b-3c").exists())
        self.assertFalse((out / "tmp-qlora-1f-2a").exists())

    def test_a_damaged_number_of_layers(self):
        self.edit_config(num_hidden_layers=10**9)
        self.everywhere(3, "num_hidden_layers", 10**9)

    def test_merge_leaves_an_earlier_output_alone(self):
        kept = self.root / "kept"
        self.output("merge", 0, kept)
        before = {path.name: path.read_bytes() for path in kept.iterdir()}
        self.spoil_weights(value=float("nan"))
        self.merge(3, Q_PROJ, output_dir=kept)
        self.assertEqual({path.name: path.read_bytes() for path in kept.iterdir()}, before)


if __name__ == "__main__":
    unittest.main(verbosity=2)
