"""Small random models in Hugging Face layout, the rows that parity tests run on, and how both programs are called."""
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")

import numpy  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

SOURCE = Path(os.environ.get("QLORA_SOURCE", Path(__file__).resolve().parents[2]))
BUILD = Path(os.environ.get("QLORA_BUILD", SOURCE / "build" / "cpu"))
TOKENIZER = SOURCE / "data" / "base-model"
TEST_DATA = Path(os.environ.get("QLORA_TEST_DATA", Path.home() / ".cache" / "qlora" / "test-data"))
torch.set_num_threads(2)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}


class Comparison:
    """Counts what differs and prints a line for each thing compared."""

    def __init__(self):
        self.failed = 0

    def check(self, good, text):
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {text}", flush=True)

    def within(self, name, difference, limit):
        self.check(difference <= limit, f"{name}: largest difference {difference:.1e} (limit {limit:.0e})")

    def finish(self):
        if self.failed:
            sys.exit(f"{self.failed} comparisons failed")


def run(command, expect=0, **keys):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **keys)
    if done.returncode != expect:
        sys.exit(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout[-2000:]}\n"
                 f"{done.stderr[-4000:]}")
    return done.stdout


def run_qlora(*arguments, expect=0):
    """Runs the binary; returns what it printed on stdout."""
    return run([BUILD / "qlora", *arguments], expect)


def probe(task, model, **command):
    """One command to probe_decoder: its tensors where it writes any, else what it prints, as JSON."""
    command = {"task": task, "model": str(model), **command}
    if task not in ("logits", "gradients"):
        return json.loads(run([BUILD / "tests" / "probe_decoder"], input=json.dumps(command)))
    out = Path(model) / f"{task}.probe.out"
    run([BUILD / "tests" / "probe_decoder"], input=json.dumps({**command, "out": str(out)}))
    tensors = safetensors.torch.load_file(out)
    out.unlink()
    return tensors


def logits_of(model, rows, **command):
    tensors = probe("logits", model, rows=rows, **command)
    return [tensors[f"row.{i}"] for i in range(len(rows))]


# Widths are multiples of 64: bitsandbytes' CPU back end decodes blocks that straddle rows wrongly.
SHAPE = dict(vocab_size=2048, hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.08, bos_token_id=0, eos_token_id=2,
             pad_token_id=0)


def rope(kind, **parameters):
    return {"rope_type": kind, "rope_theta": 10000.0, **parameters}


# 3 layers or 4 with grouped queries; between them they switch on whatever an architecture has.
CONFIGS = {
    "qwen2": lambda: transformers.Qwen2Config(tie_word_embeddings=True, **SHAPE),  # biases
    "llama": lambda: transformers.LlamaConfig(tie_word_embeddings=False,
                                              rope_parameters={**LLAMA3, "rope_theta": 500000.0}, **SHAPE),
    "llama-linear": lambda: transformers.LlamaConfig(tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
                                                     rope_parameters=rope("linear", factor=4.0), **SHAPE),
    "llama-dynamic": lambda: transformers.LlamaConfig(rope_parameters=rope("dynamic", factor=4.0),
                                                      **{**SHAPE, "max_position_embeddings": 48}),
    "llama-yarn": lambda: transformers.LlamaConfig(
        rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=32), **SHAPE),
    "llama-yarn-mscale": lambda: transformers.LlamaConfig(head_dim=32, rope_parameters=rope(
        "yarn", factor=8.0, original_max_position_embeddings=16, beta_fast=8.0, beta_slow=0.5, mscale=1.0,
        mscale_all_dim=0.7, truncate=False), **SHAPE),
    "qwen2-window": lambda: transformers.Qwen2Config(use_sliding_window=True, sliding_window=9, max_window_layers=1,
                                                     **SHAPE),
    "qwen3": lambda: transformers.Qwen3Config(head_dim=32, tie_word_embeddings=True, use_sliding_window=True,
                                              sliding_window=11, max_window_layers=2, **SHAPE),
    "mistral": lambda: transformers.MistralConfig(sliding_window=11, head_dim=32, **SHAPE),
    "mistral-full": lambda: transformers.MistralConfig(sliding_window=None, **SHAPE),
    "phi3": lambda: transformers.Phi3Config(  # as Phi-4-mini: a part of each head turns, otherwise in long rows
        partial_rotary_factor=0.75, tie_word_embeddings=True, original_max_position_embeddings=48,
        rope_parameters=rope("longrope", short_factor=[1.0, 1.1, 1.3, 1.6, 2.0, 2.5],
                             long_factor=[1.0, 1.5, 2.5, 4.0, 7.0, 9.0]), **SHAPE),
    "phi3-window": lambda: transformers.Phi3Config(sliding_window=11, **SHAPE),
    "granite": lambda: transformers.GraniteConfig(embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.4,
                                                  attention_multiplier=0.3, attention_bias=True, **SHAPE),
    "smollm3": lambda: transformers.SmolLM3Config(no_rope_layer_interval=2, use_sliding_window=True, sliding_window=11,
                                                  **{**SHAPE, "num_hidden_layers": 4}),
    "gemma2": lambda: transformers.Gemma2Config(head_dim=32, sliding_window=11, query_pre_attn_scalar=20,
                                                attn_logit_softcapping=1.5, final_logit_softcapping=2.0, **SHAPE),
    "gemma3_text": lambda: transformers.Gemma3TextConfig(
        head_dim=32, sliding_window=11, query_pre_attn_scalar=20, layer_types=["sliding_attention"] * 2 + ["full_attention"],
        rope_parameters={"sliding_attention": rope("default"),
                         "full_attention": rope("linear", factor=8.0, rope_theta=1000000.0)}, **SHAPE),
    "lfm2": lambda: transformers.Lfm2Config(layer_types=["conv", "full_attention", "conv", "conv"], block_multiple_of=64,
                                            conv_bias=True, **{**SHAPE, "num_hidden_layers": 4}),
    "mixtral": lambda: transformers.MixtralConfig(num_local_experts=4, sliding_window=11, **SHAPE),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=64,
                                                     norm_topk_prob=True, head_dim=32, **SHAPE),
    "qwen3_moe-mixed": lambda: transformers.Qwen3MoeConfig(  # layers without experts, weights that do not sum to one
        num_experts=5, num_experts_per_tok=2, moe_intermediate_size=64, mlp_only_layers=[1], decoder_sparse_step=2,
        attention_bias=True, use_sliding_window=True, sliding_window=11, output_router_logits=True,
        router_aux_loss_coef=0.5, **{**SHAPE, "num_hidden_layers": 6}),
}
# Of each architecture beside qwen2 and llama one that is trained and generates.
# scripts/test --slow: long runs of every architecture, too.
SLOW = os.environ.get("QLORA_SLOW") == "1"
ARCHITECTURES = ["qwen3", "mistral", "phi3", "granite", "smollm3", "gemma2", "gemma3_text", "lfm2", "mixtral", "qwen3_moe"]


def make_config(kind):
    return CONFIGS[kind]()


def make_model(folder, kind, seed=0, dtype=torch.float32, shard="5GB"):
    """A random model whose biases and norms say something, with the demo's tokenizer."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(make_config(kind))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if ".conv." in name and parameter.dim() == 3:
                parameter.mul_(6)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder / name)
    return folder


def as_transformers_4(model):
    """Rewrites config.json as transformers 4 wrote it."""
    path = model / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    if "sliding_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    if config["model_type"] == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    config["transformers_version"] = "4.46.0"
    path.write_text(json.dumps(config, indent=2))
    return model


def load_model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def reference_logits(model, rows):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits[0].float() for ids in rows]


def dequantized_by_bitsandbytes(quantized, model):
    """The dense model whose linears hold what bitsandbytes decodes its own codes to: its own product on the
    CPU has fewer digits."""
    import bitsandbytes  # slow to load, and needed by few
    dense = load_model(model)
    linears = dict(dense.named_modules())
    for name, module in quantized.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            values = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            linears[name].weight.data.copy_(values)
    return dense


def random_rows(lengths, vocabulary=2048, seed=5):
    random = numpy.random.default_rng(seed)
    return [random.integers(3, vocabulary, length).tolist() for length in lengths]


def write_rows(path, count=64):
    """Rows of varied lengths: prompt and completion."""
    subjects = ["authors", "ships", "rooms", "flights", "plants", "teams", "books", "orders"]
    rows = []
    for i in range(count):
        subject = subjects[i % len(subjects)]
        rows.append({"prompt": f"Question {i}: how many {subject} are there with a number above {i * 7 % 50}?"
                               + " Count each once." * (i % 4) + "\n",
                     "completion": f"SELECT count(*) FROM {subject} WHERE number > {i * 7 % 50}"
                                   + f" AND name LIKE '%{subject[0]}%'" * (i % 3)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def encoded_rows(model, data, count):
    """What qlora trains on: a list of (ids, labels)."""
    text = run_qlora("prepare", "--model_name_or_path", model, "--dataset", data, "--preview", count, "--json", "--quiet")
    rows = [json.loads(line) for line in text.splitlines()]
    return [(row["input_ids"], row["labels"]) for row in rows]


def train_adapter(model, data, folder, *arguments):
    run_qlora("train", "--model_name_or_path", model, "--dataset", data, "--output_dir", folder, "--max_steps", 8,
              "--per_device_train_batch_size", 4, "--learning_rate", 2e-2, "--lora_r", 6, "--lora_alpha", 9, "--dtype",
              "float32", "--save_strategy", "no", "--device", "cpu", "--quiet", *arguments)
    return folder


def row_losses(model, rows):
    """The reference's -log p, summed over each row's labelled tokens, in float64."""
    losses = []
    for (ids, labels), logits in zip(rows, reference_logits(model, [ids for ids, _ in rows])):
        losses.append(torch.nn.functional.cross_entropy(logits[:-1].double(), torch.tensor(labels[1:]),
                                                        ignore_index=-100, reduction="sum").item())
    return losses


def our_row_losses(model, data, output, *arguments):
    """Through `qlora eval --tasks perplexity --per_row`."""
    run_qlora("eval", "--model_name_or_path", model, "--tasks", "perplexity", "--eval_dataset", data, "--per_row",
              output / "losses.jsonl", "--output_dir", output / "eval", "--dtype", "float32", "--device", "cpu", "--quiet",
              *arguments)
    return [json.loads(line)["nll"] for line in (output / "losses.jsonl").read_text().splitlines()]


def relative(a, b):
    return abs(a - b) / max(abs(b), 1e-12)


def worst_relative(ours, theirs):
    return max(relative(a, b) for a, b in zip(ours, theirs, strict=True))


def logits_difference(ours, theirs):
    """The largest difference of any logit, relative to the largest logit of its row."""
    assert all(a.shape == b.shape for a, b in zip(ours, theirs, strict=True))
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs))
