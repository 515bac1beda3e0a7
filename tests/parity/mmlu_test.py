"""The task mmlu against lm-evaluation-harness on the same model and files: the log-likelihood of each letter, and the
accuracy by subject, by group and overall. The harness' own task files are used, with the data read from disk. Once
where every prompt fits the model, once where long ones lose their beginning. Skips (77) without the test data."""
import contextlib
import csv
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1",
                  TQDM_DISABLE="1")

import models  # noqa: E402

DATA = models.TEST_DATA / "mmlu"
# Of each group two.
SUBJECTS = ["abstract_algebra", "high_school_computer_science", "formal_logic", "prehistory",
            "us_foreign_policy", "econometrics", "virology", "professional_accounting"]
LIMIT = 6


def harness_tasks(folder):
    """The harness' tasks of SUBJECTS and their groups, under names of their own, with local files."""
    import lm_eval
    import yaml
    source = Path(lm_eval.__file__).parent / "tasks/mmlu/default"
    template = yaml.safe_load((source / "_default_template_yaml").read_text())
    renamed = lambda name: "local_" + name
    for subject in SUBJECTS:
        files = {}
        for part in ("dev", "test"):
            with open(DATA / part / f"{subject}_{part}.csv", newline="", encoding="utf-8") as file:
                rows = [{"question": row["question"], "choices": [row[f"choice{i}"] for i in range(4)],
                         "answer": int(row["answer"])} for row in csv.DictReader(file)]
            files[part] = str(folder / f"{subject}_{part}.json")
            Path(files[part]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = {**template, **yaml.safe_load((source / f"mmlu_{subject}.yaml").read_text())}
        task.pop("include")
        task.update(task=renamed(task["task"]), tag=renamed(task["tag"]), dataset_path="json", dataset_name=None,
                    dataset_kwargs={"data_files": files})
        (folder / f"{subject}.yaml").write_text(yaml.safe_dump(task))
    for group in ("_mmlu", "_mmlu_stem", "_mmlu_other", "_mmlu_social_sciences", "_mmlu_humanities"):
        config = yaml.safe_load((source / f"{group}.yaml").read_text())
        config.update(group=renamed(config["group"]), task=[renamed(name) for name in config["task"]])
        (folder / f"{group}.yaml").write_text(yaml.safe_dump(config))


def harness(model, folder):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    logging.disable(logging.WARNING)
    # As the file has it: AutoTokenizer takes another pre-tokenizer for this model_type.
    tokenizer = models.transformers.PreTrainedTokenizerFast.from_pretrained(str(model))
    language_model = HFLM(pretrained=str(model), tokenizer=tokenizer, device="cpu", dtype="float32", batch_size=4)
    with contextlib.redirect_stderr(io.StringIO()):
        return lm_eval.simple_evaluate(model=language_model, tasks=["local_mmlu"], num_fewshot=5, limit=LIMIT,
                                       task_manager=TaskManager(include_path=str(folder), include_defaults=False),
                                       bootstrap_iters=0, log_samples=True, verbosity="ERROR")


def compare(name, model, folder, theirs, compared, flags=()):
    out = folder / f"out-{name}"
    report = json.loads(models.run_qlora("eval", "--model_name_or_path", model, "--tasks", "mmlu", "--mmlu_dir",
                                         folder / "data", "--mmlu_limit", LIMIT, "--device", "cpu", "--dtype", "float32",
                                         "--json", "true", "--quiet", "true", "--output_dir", out, *flags))
    task = report["runs"]["base"]["tasks"]["mmlu"]
    ours = {row["id"]: row for row in map(json.loads, (out / "predictions.jsonl").read_text().splitlines())}
    worst = wrong = 0
    for subject in SUBJECTS:
        samples = sorted(theirs["samples"][f"local_mmlu_{subject}"], key=lambda sample: sample["doc_id"])
        assert len(samples) == LIMIT
        for sample in samples:
            row = ours[f"{subject}/{sample['doc_id']}"]
            expected = [float(answer[0][0]) for answer in sample["resps"]]
            worst = max([worst] + [abs(a - b) for a, b in zip(row["log_likelihoods"], expected)])
            wrong += float(row["acc"]) != sample["acc"]
            assert sample["arguments"][0][0].endswith(row["prompt"]), (sample["arguments"][0], row["prompt"])
    compared.within(f"{name}: log-likelihoods of {4 * len(ours)} choices", worst, 1e-4)
    compared.check(wrong == 0, f"{name}: {wrong} of {len(ours)} questions are right for one side alone")
    results = theirs["results"]
    pairs = [(task["overall"]["acc"], results["local_mmlu"]["acc,none"])]
    pairs += [(task["by"][group]["acc"], results[f"local_mmlu_{group}"]["acc,none"]) for group in task["by"]]
    pairs += [(task["by_subject"][s]["acc"], results[f"local_mmlu_{s}"]["acc,none"]) for s in SUBJECTS]
    compared.within(f"{name}: accuracy overall, of 4 groups and {len(SUBJECTS)} subjects",
                    max(abs(a - b) for a, b in pairs), 1e-6)


def main():
    if not DATA.is_dir():
        print(f"skipped: no test data in {DATA}")
        return 77
    compared = models.Comparison()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part in ("dev", "test"):
            (folder / "data" / part).mkdir(parents=True)
            for subject in SUBJECTS:
                shutil.copy(DATA / part / f"{subject}_{part}.csv", folder / "data" / part)
        (folder / "tasks").mkdir()
        harness_tasks(folder / "tasks")
        for name, positions in (("cut", 700), ("whole", 8192)):
            model = folder / f"model-{name}"
            shutil.copytree(models.TOKENIZER, model)
            config = json.loads((model / "config.json").read_text())
            config["max_position_embeddings"] = positions
            (model / "config.json").write_text(json.dumps(config))
            theirs = harness(model, folder / "tasks")
            compare(name, model, folder, theirs, compared)
        compare("one at a time", model, folder, theirs, compared, ("--batch_size", 1))
    compared.finish()
    return 0


sys.exit(main())
