"""The perplexity of rows that are longer than the model's window, read in windows that overlap, against transformers'
logits put together as its guide does: windows begin `stride` tokens after each other, each token counts once."""
import json
import tempfile
from pathlib import Path

import models
import torch

TEXTS = ["SELECT count(*) FROM singer WHERE age > 30 AND country = 'France' ORDER BY name " * 9, "SELECT name FROM pet",
         "How many singers are there in each country? " * 5]


def windowed(model, ids, length, stride):
    """The sum of -log p over all tokens but the first, and their count."""
    total, count, counted = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        labels = torch.tensor(ids[begin:end])
        labels[: counted - begin] = -100
        [logits] = models.reference_logits(model, [ids[begin:end]])
        loss = torch.nn.functional.cross_entropy(logits[:-1].double(), labels[1:], ignore_index=-100, reduction="sum")
        total, count, counted = total + loss.item(), count + int((labels[1:] != -100).sum()), end
        if end == len(ids):
            return total, count


def main():
    compared = models.Comparison()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = models.make_model(folder / "model", "qwen2")
        reference = models.load_model(model)
        rows = folder / "rows.jsonl"
        rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        encoded = models.encoded_rows(model, rows, len(TEXTS))
        for length, stride in ((48, 16), (48, 47), (48, 48), (33, 1), (4096, 64)):
            ours = models.our_row_losses(model, rows, folder, "--max_length", length, "--stride", stride)
            counts = [json.loads(line)["tokens"] for line in (folder / "losses.jsonl").read_text().splitlines()]
            theirs = [windowed(reference, ids, length, stride) for ids, _ in encoded]
            name = f"windows of {length}, {stride} apart"
            compared.check(counts == [count for _, count in theirs], f"{name}: {counts} tokens")
            compared.within(name, models.worst_relative(ours, [loss for loss, _ in theirs]), 1e-6)
        models.run_qlora("eval", "--model_name_or_path", model, "--tasks", "perplexity", "--eval_dataset", rows,
                         "--max_length", 48, "--stride", 49, "--device", "cpu", expect=2)
    compared.finish()


main()
