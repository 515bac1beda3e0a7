"""`qlora prepare --preview` against transformers' apply_chat_template and the tokenizers package.

Every row's text, prompt, input_ids and labels must be equal. The labels of the reference come from the prefix method,
written here anew: render messages[:i] with the generation prompt and messages[:i+1]; what the second has more is learnt.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

DATA = pathlib.Path(os.environ.get("QLORA_TEST_DATA", pathlib.Path.home() / ".cache/qlora/test-data"))
BINARY = pathlib.Path(os.environ["QLORA_BUILD"]) / "qlora"
END = "<|im_end|>"
SYSTEM = "You are an SQL expert. You translate questions about a database into SQL queries that answer them."

if not (DATA / "tokenizers/qwen2.5/tokenizer.json").exists():
    print(f"SKIPPED: no real tokenizer and data in {DATA}", file=sys.stderr)
    sys.exit(77)

from transformers import PreTrainedTokenizerFast  # noqa: E402


def model_folder(root):
    folder = pathlib.Path(root) / "qwen"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DATA / "tokenizers/qwen2.5" / name, folder / name)
    shutil.copy(DATA / "model_configs/Qwen--Qwen2.5-0.5B-Instruct/config.json", folder / "config.json")
    return folder


def preview(folder, dataset, *flags):
    command = [str(BINARY), "prepare", "--model_name_or_path", str(folder), "--dataset", str(dataset), "--preview",
               "1000000", "--json", *flags]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nexit {result.returncode}: {result.stderr[-2000:]}")
    return [json.loads(line) for line in result.stdout.split("\n") if line]


class Referee:
    def __init__(self, folder):
        config = json.loads((folder / "tokenizer_config.json").read_text())
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), eos_token=config["eos_token"], pad_token=config["pad_token"],
            chat_template=config["chat_template"])

    def render(self, messages, tools, generation):
        return self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False,
                                                  add_generation_prompt=generation)

    def encode(self, text, spans):
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        labels = [token if any(begin < b and end > a for a, b in spans) else -100
                  for token, (begin, end) in zip(encoded["input_ids"], encoded["offset_mapping"])]
        return encoded["input_ids"], labels

    def chat(self, messages, tools=None):
        text = self.render(messages, tools, False)
        spans, prompt = [], None
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self.render(messages[:i], tools, True)
            after = self.render(messages[:i + 1], tools, False)
            assert after.startswith(prompt) and text.startswith(after)
            end = len(after.rstrip()) if after.rstrip().endswith(END) else len(after)
            spans.append((len(prompt), end))
        if prompt is None:
            prompt = self.render(messages, tools, True)
        ids, labels = self.encode(text, spans)
        whole = self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=False)
        assert ids == whole
        return text, prompt, ids, labels

    def completion(self, prompt, answer):
        text = prompt + answer + END
        return (text, prompt, *self.encode(text, [(len(prompt), len(text))]))


def compare(name, rows, references):
    tokens = labelled = 0
    if len(rows) != len(references):
        sys.exit(f"{name}: {len(rows)} rows, the reference has {len(references)}")
    for number, (row, reference) in enumerate(zip(rows, references)):
        for field, expected in zip(("text", "prompt", "input_ids", "labels"), reference):
            if row[field] != expected:
                sys.exit(f"{name}, row {number}: {field} differs\n ours {row[field]!r}\n reference {expected!r}")
        tokens += len(row["input_ids"])
        labelled += sum(label != -100 for label in row["labels"])
    print(f"{name}: {len(rows)} rows equal in text, prompt, input_ids and labels; {tokens} tokens, {labelled} with loss")


def read(path):
    text = (DATA / path).read_text()
    return json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]


ROLES = {"human": "user", "gpt": "assistant", "system": "system", "observation": "tool"}


def sharegpt(turn):
    if turn["from"] != "function_call":
        return {"role": ROLES[turn["from"]], "content": turn["value"]}
    call = {"type": "function", "function": json.loads(turn["value"])}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def alpaca(row):
    user = f"{row['instruction']}\n{row['input']}" if row.get("input") else row["instruction"]
    return [{"role": "user", "content": user}, {"role": "assistant", "content": row.get("output") or row["response"]}]


def headings(row):
    text = f"### Instruction:\n{row['instruction']}\n\n"
    if row.get("input"):
        text += f"### Input:\n{row['input']}\n\n"
    return text + "### Response:\n"


def main():
    with tempfile.TemporaryDirectory() as root:
        folder = model_folder(root)
        referee = Referee(folder)

        spider = read("spider/train_spider.min.json")
        question = "Database: {db_id}\nQuestion: {question}\nAnswer with the SQL query only."
        compare("spider, 7000 rows of training", preview(folder, DATA / "spider/train_spider.min.json"),
                [referee.chat([{"role": "system", "content": SYSTEM},
                               {"role": "user", "content": question.format(**row)},
                               {"role": "assistant", "content": row["query"]}]) for row in spider])

        for path in ("instruct/fastchat_dummy_conversation.json", "instruct/lf_glaive_toolcall_en_demo.json"):
            references = [referee.chat([sharegpt(turn) for turn in row["conversations"]],
                                       json.loads(row["tools"]) if row.get("tools") else None) for row in read(path)]
            compare("sharegpt, " + path, preview(folder, DATA / path), references)

        for path in ("instruct/gpteacher_codegen-instruct.json", "instruct/gpteacher_roleplay.json",
                     "instruct/lf_identity.json"):
            compare("alpaca as chat, " + path, preview(folder, DATA / path),
                    [referee.chat(alpaca(row)) for row in read(path)])

        messages = []
        for row in read("instruct/lf_v1_sft_demo.jsonl"):
            messages.append([{**turn, "content": "".join(part["value"] for part in turn["content"])}
                             for turn in row["messages"]])
        path = pathlib.Path(root) / "messages.jsonl"
        path.write_text("".join(json.dumps({"messages": turns}, ensure_ascii=False) + "\n" for turns in messages))
        compare("messages, lf_v1_sft_demo as text", preview(folder, path), [referee.chat(turns) for turns in messages])

        config = json.loads((folder / "tokenizer_config.json").read_text())
        del config["chat_template"]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        path = "instruct/gpteacher_codegen-instruct.json"
        compare("alpaca with headings, " + path, preview(folder, DATA / path),
                [referee.completion(headings(row), row["response"]) for row in read(path)])


main()
