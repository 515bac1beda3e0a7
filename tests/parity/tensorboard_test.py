"""Event files of a real run, read by the tensorboard package: every number of metrics.jsonl, at its step."""
import json
import os
import pathlib
import struct
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(os.environ["QLORA_SOURCE"]) / "tests/cli"))

import tiny_model  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402


def float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def main():
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        model = tiny_model.make_model(root / "model")
        rows = tiny_model.write_rows(root / "rows.jsonl", 12)
        out = root / "out"
        for steps in (3, 6):  # the second goes on from the first: nothing twice
            result = tiny_model.run("train", "--model_name_or_path", model, "--dataset", rows, "--val_size", 4,
                                    "--output_dir", out, "--max_steps", steps, "--logging_steps", 1, "--eval_strategy",
                                    "steps", "--eval_steps", 2, "--device", "cpu", "--quiet", "--resume_from_checkpoint", "none")
            assert result.returncode == 0, result.stderr
        expected = {}
        for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
            for name, value in line.items():
                tag = "eval/" + name[5:] if name.startswith("eval_") else "train/" + name
                expected.setdefault(tag, []).append((line["step"], float32(value)))
        del expected["train/step"]
        events = EventAccumulator(str(out / "runs"), size_guidance={"scalars": 0})
        events.Reload()
        assert events.file_version == 2.0, events.file_version
        found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        assert found == expected, (found, expected)
        print(f"{len(found)} tags, {sum(map(len, found.values()))} values equal")


if __name__ == "__main__":
    main()
