"""One cache for qlora and huggingface_hub: each reads what the other wrote, from a small Hub of our own."""
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "cli"))
import hub_server  # noqa: E402
import tiny_model  # noqa: E402

MODEL, DATA = "tiny/Qwen2-0.1M", "rows/chats"

# Runs in a process of its own: huggingface_hub reads its variables once.
REFEREE = """
import huggingface_hub, pathlib, sys, transformers
sys.path.insert(0, sys.argv[3])
command, folder, = sys.argv[1:3]
MODEL, DATA = "tiny/Qwen2-0.1M", "rows/chats"
if command == "read":
    import filecmp
    snapshot = pathlib.Path(huggingface_hub.snapshot_download(MODEL, local_files_only=True))
    for path in snapshot.iterdir():
        assert filecmp.cmp(path, pathlib.Path(folder) / path.name, shallow=False), path
        assert huggingface_hub.try_to_load_from_cache(MODEL, path.name) == str(path), path
    rows = huggingface_hub.hf_hub_download(DATA, "data/train.jsonl", repo_type="dataset", local_files_only=True)
    assert pathlib.Path(rows).read_bytes() == (pathlib.Path(folder) / "rows.jsonl").read_bytes()
    info = huggingface_hub.scan_cache_dir()
    assert not info.warnings, info.warnings
    repos = {(repo.repo_type, repo.repo_id): repo for repo in info.repos}
    assert set(repos) == {("model", MODEL), ("dataset", DATA)}, repos
    (revision,) = repos["model", MODEL].revisions
    assert revision.refs == {"main"} and revision.commit_hash == snapshot.name, revision
    assert {f.file_name for f in revision.files} == {p.name for p in snapshot.iterdir()}
    assert all(f.blob_path.parent.name == "blobs" for f in revision.files)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    assert model.config.hidden_size == 32 and tokenizer("SELECT")["input_ids"]
else:
    huggingface_hub.snapshot_download(MODEL)
    huggingface_hub.snapshot_download(DATA, repo_type="dataset")
"""


def run(command, work, environment):
    result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    return result


def referee(command, work, environment):
    run([sys.executable, "-c", REFEREE, command, work, str(pathlib.Path(__file__).parents[1] / "cli")], work, environment)


def qlora(work, environment, output):
    run(tiny_model.command("train", "--model_name_or_path", MODEL, "--dataset", DATA, "--max_steps", 1, "--device", "cpu",
                           "--output_dir", output), work, environment)


def entries(cache):
    """Every file and link of a cache that holds bytes or leads to them."""
    found = {}
    for path in sorted(pathlib.Path(cache).rglob("*")):
        name = str(path.relative_to(cache))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file() and not name.startswith(".locks") and "/trees/" not in name and name != "CACHEDIR.TAG":
            found[name] = path.read_bytes()
    return found


def main():
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        made = tiny_model.make_model(work / "model")
        files = {path.name: path.read_bytes() for path in made.iterdir() if path.suffix not in (".md", ".jsonl")}
        for name, data in files.items():
            (work / name).write_bytes(data)
        rows = tiny_model.write_rows(work / "rows.jsonl", 12).read_bytes()
        hub = hub_server.Hub()
        for name, content in ((f"models/{MODEL}", files), (f"datasets/{DATA}", {"data/train.jsonl": rows})):
            hub.repos[name] = hub_server.Repo()
            hub.repos[name].commit(content)
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("HF_") and name != "TRANSFORMERS_OFFLINE"}
        environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1"}
        ours = environment | {"HF_HOME": str(work / "ours")}
        theirs = environment | {"HF_HOME": str(work / "theirs")}

        qlora(work, ours, "out")
        referee("read", work, ours | {"HF_HUB_OFFLINE": "1"})
        print("huggingface_hub and transformers read what qlora wrote")

        referee("write", work, theirs)
        hub.requests.clear()
        qlora(work, theirs | {"HF_HUB_OFFLINE": "1"}, "out-offline")
        assert not hub.requests, hub.requests
        qlora(work, theirs, "out-online")
        assert all("/revision/" in request["path"] for request in hub.requests), hub.requests
        print("qlora reads what huggingface_hub wrote, and downloads none of it again")

        left, right = entries(work / "ours/hub"), entries(work / "theirs/hub")
        assert left == right, sorted(set(left) ^ set(right)) or [name for name in left if left[name] != right[name]]
        print(f"the two caches are equal: {len(left)} files and links")
        hub.close()


if __name__ == "__main__":
    main()
