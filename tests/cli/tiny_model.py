"""A tiny Qwen2 with the tokenizer of the embedded base model, rows to train it on, and the binary. No test by itself."""
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys

SOURCE = pathlib.Path(os.environ["QLORA_SOURCE"])
QLORA = pathlib.Path(os.environ["QLORA_BUILD"]) / "qlora"
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.08}


def make_model(folder, **changes):
    """The folder, filled: config, tokenizer, and random weights that are the same every time."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    for path in (SOURCE / "data/base-model").iterdir():
        if path.name not in ("model.safetensors", "README.md", "config.json"):
            shutil.copy(path, folder / path.name)
    config = json.loads((SOURCE / "data/base-model/config.json").read_text())
    config.pop("head_dim", None)
    config.pop("layer_types", None)
    config.update(SIZES, **changes)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    subprocess.run([sys.executable, SOURCE / "scripts/make-base-init", folder, folder / "model.safetensors"],
                   check=True, capture_output=True)
    assert (folder / "model.safetensors").exists()
    return folder


def write_rows(path, count):
    """Chats of varied lengths."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            question = " ".join(["How many", "singers", "are there in year", str(1900 + 7 * i)][: 2 + i % 3])
            answer = f"SELECT count(*) FROM singer WHERE year > {1900 + 7 * i}" + " AND age = 3" * (i % 4)
            file.write(json.dumps({"messages": [{"role": "user", "content": question},
                                                {"role": "assistant", "content": answer}]}) + "\n")
    return path


def read_tensors(path):
    """{name: (dtype, shape, begin, end)} of a safetensors file, offsets in the file, and its bytes."""
    data = bytearray(pathlib.Path(path).read_bytes())
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], 8 + size + t["data_offsets"][0], 8 + size + t["data_offsets"][1])
            for name, t in header.items()}, data


def write_tensors(path, tensors):
    """tensors: {name: (dtype, shape, bytes)}"""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + body)


def command(name, *flags):
    return [str(QLORA), name, *map(str, flags)]


def run(name, *flags, **options):
    return subprocess.run(command(name, *flags), capture_output=True, text=True, timeout=600, check=False, **options)


def without_file_size_signal():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
