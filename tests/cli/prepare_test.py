"""`qlora prepare` from the outside: what it writes, what it shows, and what it says to bad input."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

BINARY = pathlib.Path(os.environ["QLORA_BUILD"]) / "qlora"
CHATML = ("{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no such role') }}{% endif %}"
          "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
TABLES = [{"db_id": "shop", "table_names_original": ["item"], "column_names_original": [[-1, "*"], [0, "id"]],
           "column_types": ["text", "number"], "primary_keys": [1], "foreign_keys": []}]


def byte_characters():
    """The printable characters that byte-level BPE writes bytes as."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(other)}}


def tokenizer_json():
    characters = byte_characters()
    vocabulary = {characters[byte]: byte for byte in range(256)}
    added = [{"id": 256 + i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, token in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": level, "post_processor": level, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary,
                      "merges": []}}


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


class PrepareTest(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)
        self.model = self.root / "model"
        self.model.mkdir()
        self.write("model/tokenizer.json", tokenizer_json())
        self.configure(eos_token="<|im_end|>", chat_template=CHATML)
        self.write("model/config.json", {"model_type": "qwen2", "vocab_size": 259, "max_position_embeddings": 64})
        self.out = self.root / "out"

    def configure(self, **keys):
        self.write("model/tokenizer_config.json", keys)

    def write(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def rows(self, name, *rows):
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def run_prepare(self, dataset, *flags, output=True):
        command = [str(BINARY), "prepare", "--model_name_or_path", str(self.model), "--dataset", str(dataset), *flags]
        if output:
            command += ["--output_dir", str(self.out)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def refused(self, code, message, dataset, *flags):
        result = self.run_prepare(dataset, *flags)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertIn(message, result.stderr)
        self.assertFalse(self.out.exists(), "a refused run must leave no output")

    def good_rows(self):
        return self.rows("good.jsonl", chat(("user", "q"), ("assistant", "a")), chat(("user", "q"), ("assistant", "b")))

    def test_writes_set_manifest_and_report(self):
        result = self.run_prepare(self.good_rows(), "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        printed = json.loads(result.stdout)
        manifest = json.loads((self.out / "manifest.json").read_text())
        self.assertEqual(list(manifest), ["rows_in", "rows_kept", "dropped", "truncated", "tokens", "label_tokens",
                                          "length", "duplicates", "leaked", "fingerprint"])
        self.assertEqual(manifest, {key: value for key, value in printed.items() if key != "output_dir"})
        self.assertEqual((manifest["rows_kept"], manifest["label_tokens"]), (2, 4))
        self.assertEqual(manifest["length"], {"p50": 23, "p95": 23, "max": 23})
        self.assertIn("<svg", (self.out / "report.html").read_text())
        self.assertEqual({path.name for path in self.out.iterdir()}, {"train.bin", "manifest.json", "report.html"})

    def test_output_is_replaced_whole_or_left_alone(self):
        good = self.good_rows()
        self.assertEqual(self.run_prepare(good).returncode, 0)
        before = {path.name: path.read_bytes() for path in self.out.iterdir()}
        self.assertEqual(self.run_prepare(self.write("bad.jsonl", "{]")).returncode, 3)
        self.assertEqual({path.name: path.read_bytes() for path in self.out.iterdir()}, before)
        (self.out / "notes.txt").write_text("mine")
        self.assertEqual(self.run_prepare(good, "--val_size", "1").returncode, 0)
        self.assertEqual((self.out / "notes.txt").read_text(), "mine")
        self.assertTrue((self.out / "eval.bin").exists())

    def test_dry_run_writes_nothing(self):
        result = self.run_prepare(self.good_rows(), "--dry_run", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(json.loads(result.stdout)["rows_kept"], 2)
        self.assertFalse(self.out.exists())

    def test_preview_shows_the_mask(self):
        rows = self.rows("rows.jsonl", {**chat(("user", "q"), ("assistant", "a")), "id": "x"}, chat(("user", "q")))
        result = self.run_prepare(rows, "--preview", "5", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        first, second = [json.loads(line) for line in result.stdout.splitlines()]
        self.assertEqual(list(first), ["id", "text", "prompt", "input_ids", "labels"])
        self.assertEqual((first["id"], second["id"]), ("x", 1))
        self.assertEqual(first["text"], "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n")
        self.assertEqual(first["prompt"], "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n")
        self.assertEqual([label for label in first["labels"] if label != -100], [ord("a"), 258])
        self.assertEqual(set(second["labels"]), {-100})
        self.assertIn("rows.jsonl:2: no token of this row carries loss", result.stderr)
        self.assertFalse(self.out.exists())

    def test_preview_never_refuses_what_training_would(self):
        self.configure(eos_token="<|endoftext|>", chat_template=CHATML)
        rows = self.rows("rows.jsonl", chat(("user", "q"), ("assistant", "a" * 100)))
        result = self.run_prepare(rows, "--preview", "1", output=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("ends answers with <|im_end|>, but the model stops at <|endoftext|>", result.stderr)
        self.assertIn("more than max_length 64", result.stderr)

    def test_the_alpaca_template_has_a_heading_for_the_input(self):
        rows = self.rows("rows.jsonl", {"instruction": "Say", "input": "i", "output": "x"},
                         {"instruction": "Say", "output": "x"})
        result = self.run_prepare(rows, "--preview", "2", "--json", "--chat_template", "alpaca", "--max_length", "400")
        prompts = [json.loads(line)["prompt"] for line in result.stdout.splitlines()]
        self.assertTrue(prompts[0].endswith("### Instruction:\nSay\n\n### Input:\ni\n\n### Response:\n"), prompts)
        self.assertTrue(prompts[1].endswith("### Instruction:\nSay\n\n### Response:\n"), prompts)

    def test_the_context_config_heads_each_part_once(self):
        rows = self.rows("rows.jsonl", {"question": "How many heads are older than 56?", "answer": "SELECT COUNT(*) FROM head WHERE age > 56",
                                        "context": "CREATE TABLE head (age INTEGER)"})
        self.configure(bos_token="<|endoftext|>", eos_token="<|im_end|>")
        config = pathlib.Path(os.environ["QLORA_SOURCE"]) / "configs/sql_context_llama2_70b.yaml"
        dataset = json.dumps({"path": str(rows), "format": "spider", "split": "train"})
        result = self.run_prepare(dataset, "--config", str(config), "--preview", "1", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        row = json.loads(result.stdout)
        answer = "SELECT COUNT(*) FROM head WHERE age > 56<|im_end|>"
        self.assertEqual(row["text"], "<|endoftext|>You are an SQL expert. Write the SQL query that answers the question in "
                         "the input, over the tables in the context.\n\n### Input:\nHow many heads are older than 56?\n\n"
                         "### Context:\nCREATE TABLE head (age INTEGER)\n\n### Response:\n" + answer)
        self.assertEqual(row["prompt"] + answer, row["text"])
        self.assertEqual([label for label in row["labels"] if label != -100], [*map(ord, answer[:-10]), 258])
        result = self.run_prepare(dataset, "--config", str(config), "--preview", "1", "--json", "--system_prompt", "S")
        self.assertTrue(json.loads(result.stdout)["text"].startswith("<|endoftext|>S\n\n### Input:\n"), result.stdout)

    def test_built_in_templates_refuse_what_they_would_lose(self):
        call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
        rows = self.rows("tools.jsonl", {"messages": [{"role": "user", "content": "q"}, call], "tools": [{"name": "f"}]})
        self.refused(3, "tools.jsonl:1: <llama3>", rows, "--chat_template", "llama3")
        self.refused(3, "this built-in template renders no tools (chatml does): take it out of the row, or name another "
                     "chat_template", rows, "--chat_template", "alpaca")
        result = self.run_prepare(rows, "--chat_template", "chatml", "--preview", "1", "--json")
        row = json.loads(result.stdout)
        self.assertEqual(row["text"][len(row["prompt"]):],
                         '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n')
        self.assertIn('<tools>\n{"name": "f"}\n</tools>', row["prompt"])
        image = self.rows("image.jsonl", {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]})
        self.refused(3, "image.jsonl:1: <llama3>", image, "--chat_template", "llama3")

    def test_preview_says_of_long_rows_what_training_does(self):
        rows = self.rows("long.jsonl", chat(("user", "q"), ("assistant", "a" * 90)),
                         chat(("user", "q" * 90), ("assistant", "a")))
        limits = ("--max_length", "40", "--overflow", "truncate")
        preview = self.run_prepare(rows, *limits, "--preview", "2", "--json", output=False).stderr
        self.assertRegex(preview, r"long.jsonl:1: .* would be truncated")
        self.assertRegex(preview, r"long.jsonl:2: .* would be dropped")
        manifest = json.loads(self.run_prepare(rows, *limits, "--json").stdout)
        self.assertEqual((manifest["truncated"], manifest["dropped"]), (1, {"too_long": 1}))

    def test_a_link_to_a_folder_stays_one(self):
        (self.root / "disk").mkdir()
        self.out.symlink_to("disk")
        self.assertEqual(self.run_prepare(self.good_rows()).returncode, 0)
        self.assertTrue(self.out.is_symlink())
        self.assertTrue((self.root / "disk/manifest.json").exists())

    def test_a_part_of_the_rows_is_a_share_or_a_whole_number(self):
        self.refused(2, "val_size: a share is below 1, a number of rows is whole", self.good_rows(), "--val_size", "1.5")

    def test_a_full_standard_output_is_an_error(self):
        with open("/dev/full", "w") as full:
            result = subprocess.run([BINARY, "prepare", "--model_name_or_path", self.root / "model", "--dataset",
                                     self.good_rows(), "--preview", "1", "--json"], stdout=full, stderr=subprocess.PIPE,
                                    text=True)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("standard output cannot be written: No space left", result.stderr)
        with open("/dev/full", "w") as full:
            self.assertEqual(subprocess.run([BINARY, "--version"], stdout=full, stderr=subprocess.DEVNULL).returncode, 1)

    def test_a_json_file_may_hold_one_indented_object(self):
        result = self.run_prepare(self.write("one.json", json.dumps({"text": "ab"}, indent=2)), "--preview", "1", "--json")
        self.assertEqual(json.loads(result.stdout)["text"], "ab", result.stderr)

    def test_text_has_no_prompt(self):
        result = self.run_prepare(self.rows("rows.jsonl", {"text": "ab"}), "--preview", "1", "--json")
        row = json.loads(result.stdout)
        self.assertEqual((row["prompt"], row["input_ids"], row["labels"]), (None, [97, 98], [97, 98]))

    def test_an_end_token_that_stops_nothing_is_refused(self):
        self.configure(eos_token="<|endoftext|>", chat_template=CHATML)
        self.refused(3, "but the model stops at <|endoftext|>", self.good_rows())
        self.refused(3, "(chat_template: llama3) ends answers with no special token", self.good_rows(),
                     "--chat_template", "llama3", "--max_length", "400")
        self.assertEqual(self.run_prepare(self.good_rows(), "--chat_template", "chatml").returncode, 0)
        self.write("model/generation_config.json", {"eos_token_id": [258, 256]})
        self.assertEqual(self.run_prepare(self.good_rows()).returncode, 0)

    def test_bad_files(self):
        self.refused(3, "none.jsonl: no such file", self.root / "none.jsonl")
        self.refused(3, "bad.jsonl:2:10: broken JSON", self.write("bad.jsonl", '{"text":"a"}\n{"text": }\n'))
        self.refused(3, "objects.json:1:2: broken JSON", self.write("objects.json", '{\n"text": "a"\n}\n{\n"text": "b"\n}\n'))
        self.refused(3, "empty.jsonl: the file holds no row", self.write("empty.jsonl", ""))
        typed = json.dumps({"path": str(self.rows("type.jsonl", {"text": 5})), "format": "text"})
        self.refused(3, "type.jsonl:1: column 'text' must be a string, is number", typed)
        self.refused(3, "odd.jsonl:1: the format cannot be told", self.rows("odd.jsonl", {"a": 1}))
        self.refused(2, "csv", self.write("a.csv", "text\na\n"))
        self.refused(2, "parquet", self.write("a.parquet", "PAR1"))

    def test_unknown_format_is_a_usage_error(self):
        self.refused(2, "chatty", json.dumps({"path": str(self.good_rows()), "format": "chatty"}))

    def test_templates(self):
        self.refused(3, "no such role", self.rows("bad.jsonl", chat(("bad", "x"), ("assistant", "y"))))
        self.configure(eos_token="<|im_end|>")
        self.refused(2, "chatml", self.good_rows())
        self.configure(eos_token="<|im_end|>", chat_template="{% for m in messages %}{{ m.content }")
        self.refused(3, "tokenizer_config.json", self.good_rows())

    def test_spider_without_its_database(self):
        tables = self.write("tables.json", TABLES)
        rows = self.rows("rows.jsonl", {"question": "q", "query": "SELECT 1", "db_id": "zoo"})
        self.refused(3, "rows.jsonl:1: db_id 'zoo' is not in tables", rows, "--tables", str(tables))
        self.refused(3, "nowhere.json", rows, "--tables", str(self.root / "nowhere.json"))
        shop = self.rows("shop.jsonl", {"question": "q", "query": "SELECT 1", "db_id": "shop"})
        result = self.run_prepare(shop, "--prompt_style", "schema", "--preview", "1", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("CREATE TABLE item (\n  id number,\n  PRIMARY KEY (id)\n);", json.loads(result.stdout)["prompt"])

    def test_lengths(self):
        rows = self.rows("rows.jsonl", chat(("user", "q"), ("assistant", "a")), chat(("user", "q"), ("assistant", "b" * 90)))
        result = self.run_prepare(rows, "--json")
        self.assertEqual(json.loads(result.stdout)["dropped"], {"too_long": 1})
        self.assertIn("rows.jsonl:2", result.stderr)
        result = self.run_prepare(rows, "--json", "--overflow", "truncate")
        self.assertEqual(json.loads(result.stdout)["truncated"], 1)
        shutil.rmtree(self.out)
        self.refused(3, "all 2 rows were dropped", rows, "--max_length", "4")

    def test_a_token_outside_the_vocabulary(self):
        self.write("model/config.json", {"vocab_size": 258, "max_position_embeddings": 64})
        self.refused(3, "good.jsonl:1: token 258 (<|im_end|>) is outside the model's vocabulary of 258", self.good_rows())

    def test_missing_model(self):
        command = [str(BINARY), "prepare", "--dataset", str(self.good_rows()), "--output_dir", str(self.out)]
        result = subprocess.run([*command, "--model_name_or_path", "no/such/model"], capture_output=True, text=True)
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertIn("no/such/model", result.stderr)


if __name__ == "__main__":
    unittest.main()
