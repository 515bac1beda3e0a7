"""Models and data sets by their names on the Hub: the commands against a small Hub of our own."""
import hashlib
import json
import os
import pathlib
import pty
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import hub_server
import tiny_model

ID, DATA = "tiny/Qwen2-0.1M", "rows/chats"


class HubTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.made = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.made.cleanup)
        folder = tiny_model.make_model(pathlib.Path(cls.made.name) / "model")
        cls.model = {path.name: path.read_bytes() for path in folder.iterdir()}
        for name in ("pytorch_model.bin", "model-q8_0.gguf", "original/params.json", "original/consolidated.00.pth"):
            cls.model[name] = b"nobody asks for it"
        cls.rows = tiny_model.write_rows(pathlib.Path(cls.made.name) / "rows.jsonl", 12).read_bytes()

    def setUp(self):
        work = tempfile.TemporaryDirectory()
        self.addCleanup(work.cleanup)
        self.work = pathlib.Path(work.name)
        self.home = self.work / "hf"
        self.storage = self.home / "hub" / "models--tiny--Qwen2-0.1M"
        self.hub = self.serve()
        self.repo = self.hub.repos[f"models/{ID}"] = hub_server.Repo()
        self.commit = self.repo.commit(self.model)
        self.data = self.hub.repos[f"datasets/{DATA}"] = hub_server.Repo()
        self.data.commit({"README.md": b"rows", "data/train.jsonl": self.rows, "data/test.jsonl": self.rows,
                          "dataset_infos.json": b"{}"})
        (self.work / "rows.jsonl").write_bytes(self.rows)

    def serve(self, certificate=None):
        hub = hub_server.Hub(certificate)
        self.addCleanup(hub.close)
        return hub

    def environment(self, **variables):
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("HF_", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")}
        return {**kept, "HF_HOME": str(self.home), "HF_ENDPOINT": self.hub.endpoint, **variables}

    def run_qlora(self, name, *flags, code=0, preexec_fn=None, **variables):
        result = tiny_model.run(name, *flags, cwd=self.work, env=self.environment(**variables), preexec_fn=preexec_fn)
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def preview(self, *flags, code=0, model=ID, dataset="rows.jsonl", **variables):
        """The shortest command that needs a model (all but its weights) and rows."""
        return self.run_qlora("prepare", "--model_name_or_path", model, "--dataset", dataset, "--preview", 1, "--json",
                              *flags, code=code, **variables)

    def train(self, *flags, code=0, **variables):
        return self.run_qlora("train", "--model_name_or_path", ID, "--dataset", DATA, "--output_dir", "out",
                              "--max_steps", 1, "--device", "cpu", *flags, code=code, **variables)

    def blobs(self, storage=None):
        folder = (storage or self.storage) / "blobs"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def blob(self, name):
        return self.storage / "blobs" / hashlib.sha256(self.model[name]).hexdigest()

    def ranges(self):
        return [r["range"] for r in self.hub.asked("GET", "cdn")]


class Cache(HubTest):
    def test_prepare_leaves_what_huggingface_hub_would_but_no_weights(self):
        self.preview()
        self.assertEqual((self.storage / "refs/main").read_text(), self.commit)
        snapshot = self.storage / "snapshots" / self.commit
        names = {path.name for path in snapshot.iterdir()}
        read = {name for name in self.model if name.endswith((".json", ".jinja", ".txt")) and "/" not in name}
        self.assertEqual(names, read)
        for path in snapshot.iterdir():
            data = self.model[path.name]
            large = path.name.endswith(hub_server.LFS)
            etag = hashlib.sha256(data).hexdigest() if large else hub_server.git_hash(data)
            self.assertEqual(os.readlink(path), f"../../blobs/{etag}")
            self.assertEqual(path.read_bytes(), data)
        self.assertEqual(len(self.blobs()), len(names))

    def test_what_is_there_is_not_asked_for_again(self):
        self.preview()
        self.hub.requests.clear()
        self.preview()
        self.assertEqual([r["path"] for r in self.hub.requests], [f"/api/models/{ID}/revision/main"])
        self.hub.requests.clear()
        self.preview(HF_HUB_OFFLINE="1")
        self.assertEqual(self.hub.requests, [])

    def test_every_command_takes_a_name(self):
        self.train()
        config = json.loads((self.work / "out/adapter_config.json").read_text())
        self.assertEqual((config["base_model_name_or_path"], config["revision"]), (ID, None))
        card = (self.work / "out/README.md").read_text()
        self.assertIn(f'base_model: "{ID}"', card)
        self.assertIn(f'- "{DATA}"', card)
        flags = ["--model_name_or_path", ID, "--device", "cpu"]
        self.run_qlora("merge", *flags[:2], "--adapter", "out", "--output_dir", "merged", HF_HUB_OFFLINE="1")
        self.run_qlora("eval", *flags, "--adapter", "out", "--tasks", "perplexity", "--output_dir", "eval",
                       "--eval_dataset", DATA)
        self.assertTrue((self.home / "hub/datasets--rows--chats/refs/main").exists())

    def test_no_command_needs_weights_for_its_dry_run(self):
        self.train("--dry_run")
        self.assertFalse(self.blob("model.safetensors").exists())
        self.train()
        before = self.run_qlora("merge", "--model_name_or_path", ID, "--adapter", "out", "--dry_run", "--json").stdout
        shutil.rmtree(self.home)
        flags = ["--model_name_or_path", ID, "--adapter", "out", "--dry_run", "--json"]
        self.run_qlora("eval", *flags, "--device", "cpu", "--tasks", "perplexity", "--eval_dataset", DATA)
        self.assertEqual(self.run_qlora("merge", *flags).stdout, before)
        self.assertFalse(self.blob("model.safetensors").exists())

    def test_merge_refuses_before_the_weights_are_fetched(self):
        self.train()
        shutil.rmtree(self.home)
        flags = ["--model_name_or_path", ID, "--adapter", "out", "--output_dir"]
        self.assertIn("no earlier merge", self.run_qlora("merge", *flags, "out/runs", code=2).stderr)
        self.repo.commit({**self.model, "config.json": self.model["config.json"].replace(b": 64,", b": 48,")})
        self.assertIn("mlp", self.run_qlora("merge", *flags, "merged", code=3).stderr)
        self.assertFalse(self.blob("model.safetensors").exists())

    def test_the_caches_own_variable(self):
        self.preview(HF_HUB_CACHE=str(self.work / "elsewhere"))
        self.assertTrue((self.work / "elsewhere" / self.storage.name / "snapshots" / self.commit).is_dir())
        self.assertFalse(self.home.exists())

    def test_progress_is_drawn_on_a_terminal_alone(self):
        self.hub.slow = 0.02
        self.assertNotIn("%", self.preview().stderr)
        shutil.rmtree(self.home)
        ours, terminal = pty.openpty()
        flags = ["--model_name_or_path", ID, "--dataset", "rows.jsonl", "--preview", "1", "--json"]
        process = subprocess.Popen(tiny_model.command("prepare", *flags), cwd=self.work, stdout=subprocess.DEVNULL,
                                   stderr=terminal, env=self.environment(TERM="xterm"))
        os.close(terminal)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # the terminal's other end is closed
            pass
        os.close(ours)
        self.assertEqual(process.wait(), 0, shown)
        self.assertRegex(shown, rb"bytes  \d+/\d+  \d+%.*  tokenizer.json")

    def test_a_missing_row_file_is_found_before_the_weights_are_fetched(self):
        self.train("--dataset", "nowhere.jsonl", code=3)
        self.assertFalse(self.blob("model.safetensors").exists())

    def test_shards_are_those_of_the_index(self):
        self.model_in_shards()
        self.train()
        names = {path.name for path in (self.storage / "snapshots" / self.commit).glob("*.safetensors*")}
        self.assertEqual(names, {"model-00001-of-00001.safetensors", "model.safetensors.index.json"})

    def model_in_shards(self, shard="model-00001-of-00001.safetensors"):
        tensors, _ = tiny_model.read_tensors(pathlib.Path(self.made.name) / "model/model.safetensors")
        files = {name: data for name, data in self.model.items() if name != "model.safetensors"}
        files[shard] = files["consolidated.safetensors"] = self.model["model.safetensors"]
        files["model.safetensors.index.json"] = json.dumps({"weight_map": {name: shard for name in tensors}}).encode()
        self.commit = self.repo.commit(files)

    def test_an_index_that_leads_out_of_the_repository_is_refused(self):
        self.model_in_shards("../../evil.safetensors")
        self.assertIn("no safetensors file of the repository", self.train(code=3).stderr)

    def test_another_revision_shares_equal_blobs(self):
        self.preview()
        branch = self.repo.commit({**self.model, "generation_config.json": b"{}"}, "old")
        self.hub.requests.clear()
        self.preview("--model_revision", "old")
        paths = [r["path"] for r in self.hub.asked("GET") if "redirected" not in r["path"]]
        self.assertEqual(paths, [f"/api/models/{ID}/revision/old", f"/{ID}/resolve/{branch}/generation_config.json"])
        self.assertEqual((self.storage / "refs/old").read_text(), branch)
        self.assertEqual((self.storage / "refs/main").read_text(), self.commit)
        self.preview("--model_revision", branch, HF_HUB_OFFLINE="1")
        self.train("--model_revision", branch)
        self.assertEqual(json.loads((self.work / "out/adapter_config.json").read_text())["revision"], branch)


class Faults(HubTest):
    def test_a_lost_connection_is_gone_on_with(self):
        self.hub.faults["tokenizer.json"] = ["cut", "busy", "cut", "hang"]
        size = len(self.model["tokenizer.json"])
        self.preview(HF_HUB_DOWNLOAD_TIMEOUT="1")
        half, quarter = size - (size - size // 2), size // 2 + (size - size // 2) // 2
        self.assertEqual(self.ranges()[:4], [None, f"bytes={half}-", f"bytes={half}-", f"bytes={quarter}-"])
        self.assertEqual(self.blob("tokenizer.json").read_bytes(), self.model["tokenizer.json"])

    def test_a_server_without_ranges_is_read_from_the_start(self):
        self.hub.faults["tokenizer.json"] = ["cut", "whole"]
        self.preview()
        self.assertEqual(len(self.ranges()), 2)
        self.assertEqual(self.blob("tokenizer.json").read_bytes(), self.model["tokenizer.json"])

    def test_what_an_earlier_run_left_is_checked(self):
        data = self.model["tokenizer.json"]
        for left, expected in ((data[:1000], ["bytes=1000-"]), (b"x" * 1000, ["bytes=1000-", None]),
                               (data, []), (data + b"x", [None])):
            with self.subTest(left=len(left)):
                shutil.rmtree(self.home, ignore_errors=True)
                incomplete = pathlib.Path(str(self.blob("tokenizer.json")) + ".incomplete")
                incomplete.parent.mkdir(parents=True)
                incomplete.write_bytes(left)
                self.hub.requests.clear()
                self.preview()
                self.assertEqual(self.ranges(), expected)
                self.assertEqual(self.blob("tokenizer.json").read_bytes(), data)
                self.assertFalse(incomplete.exists())

    def test_wrong_bytes_never_get_a_name(self):
        self.hub.faults["tokenizer.json"] = ["wrong"]
        error = self.preview(code=5).stderr
        self.assertIn("came with other bytes than its SHA-256 says", error)
        self.assertIn(f"{self.hub.endpoint}/{ID}/resolve/{self.commit}/tokenizer.json", error)
        self.assertFalse([name for name in self.blobs() if name.startswith(self.blob("tokenizer.json").name)])
        self.preview()

    def test_a_hub_that_is_down_is_exit_5_and_the_cache_helps(self):
        self.preview()
        self.hub.refusal = (503,)
        result = self.preview()
        self.assertRegex(result.stderr, rf"HTTP status 503 .*going on with commit {self.commit} of the cache")
        shutil.rmtree(self.home)
        error = self.preview(code=5).stderr
        self.assertIn("HTTP status 503 (5 tries)", error)
        self.assertIn(f"{self.hub.endpoint}/api/models/{ID}/revision/main", error)
        error = self.preview(code=5, HF_HUB_OFFLINE="1").stderr
        self.assertIn("HF_HUB_OFFLINE is set", error)

    def test_no_network_is_exit_5_and_says_what_to_check(self):
        for endpoint, reason in (("http://localhost:1", "connect"), ("http://nowhere.invalid", "resolve")):
            error = self.preview(code=5, HF_ENDPOINT=endpoint).stderr
            self.assertIn(f"{endpoint}/api/models/{ID}/revision/main", error)
            self.assertRegex(error, rf"(?i){reason}.*check the network, its proxy .* and run again")

    def test_a_full_disk_keeps_what_came(self):
        def full_disk():
            tiny_model.without_file_size_signal()
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        error = self.preview(code=1, preexec_fn=full_disk).stderr
        self.assertIn(f"{self.blob('tokenizer.json')}.incomplete: cannot write it: File too large", error)
        self.hub.requests.clear()
        self.preview()
        self.assertEqual(self.ranges(), ["bytes=20000-"])

    def test_an_endpoint_or_revision_that_cannot_be_is_exit_2(self):
        for endpoint in ("localhost:1", "hub.example", "://x"):
            self.assertIn("is no URL", self.preview(code=2, HF_ENDPOINT=endpoint).stderr)
        self.assertIn("cannot be a revision", self.preview("--model_revision", "../main", code=2).stderr)
        self.assertEqual(self.hub.requests, [])

    def test_something_that_is_no_hub_is_named(self):
        self.hub.repos.clear()
        self.addCleanup(setattr, hub_server.Cdn, "route", hub_server.Cdn.route)
        hub_server.Cdn.route = lambda pages, parts: pages.send(200, {}, b"<html>Log in</html>")
        self.assertIn("this is no Hub", self.preview(code=5, HF_ENDPOINT=self.hub.cdn_url).stderr)

    def test_a_proxy_is_used_and_no_proxy_spares(self):
        self.assertEqual(self.preview(code=5, http_proxy="http://localhost:1").returncode, 5)
        self.assertEqual(self.hub.requests, [])
        self.preview(http_proxy="http://localhost:1", no_proxy="localhost")

    def test_certificates(self):
        if not shutil.which("openssl"):
            self.skipTest("there is no openssl to make a certificate")
        pem = self.work / "own.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-keyout", pem, "-out", self.work / "cert.pem", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=DNS:localhost"], check=True, capture_output=True)
        pem.write_bytes(pem.read_bytes() + (self.work / "cert.pem").read_bytes())
        hub, self.hub = self.hub, self.serve(pem)
        self.hub.repos = hub.repos
        self.assertIn("certificate", self.preview(code=5).stderr)
        self.preview(CURL_CA_BUNDLE=str(self.work / "cert.pem"))

    def test_signals_leave_only_what_can_be_gone_on_with(self):
        self.hub.slow = 0.1
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
            with self.subTest(signal=number.name):
                before = len(self.hub.asked("GET", "cdn"))
                flags = ["--model_name_or_path", ID, "--dataset", "rows.jsonl", "--output_dir", "out", "--max_steps", "1"]
                process = subprocess.Popen(tiny_model.command("train", *flags), cwd=self.work, env=self.environment(),
                                           stderr=subprocess.PIPE, text=True)
                while len(self.hub.asked("GET", "cdn")) == before and process.poll() is None:
                    time.sleep(0.02)
                time.sleep(0.5)
                process.send_signal(number)
                error = process.communicate(timeout=30)[1]
                self.assertEqual(process.returncode, code, error)
                partial = [name for name in self.blobs() if name.endswith(".incomplete")]
                self.assertEqual(len(partial), 1, self.blobs())
                for name in set(self.blobs()) - set(partial):
                    data = (self.storage / "blobs" / name).read_bytes()
                    self.assertIn(name, (hashlib.sha256(data).hexdigest(), hub_server.git_hash(data)))
        self.hub.slow = 0.0
        self.hub.requests.clear()
        self.train()
        self.assertTrue([r for r in self.ranges() if r])

    def test_two_processes_download_once(self):
        self.hub.slow = 0.05
        flags = ["--model_name_or_path", ID, "--dataset", "rows.jsonl", "--preview", "1"]
        pair = [subprocess.Popen(tiny_model.command("prepare", *flags), cwd=self.work, env=self.environment(),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        errors = [process.communicate(timeout=60)[1] for process in pair]
        self.assertEqual([process.returncode for process in pair], [0, 0], errors)
        self.assertEqual(len(self.ranges()), 1)


class Access(HubTest):
    def test_what_is_not_there_is_exit_3(self):
        for flags, words in (({"model": "tiny/none"}, "there is no model tiny/none on the Hub"),
                             ({"dataset": "rows/none"}, "there is no data set rows/none on the Hub")):
            self.assertIn(words, self.preview(code=3, **flags).stderr)
        self.assertIn('there is no revision "v9"', self.preview("--model_revision", "v9", code=3).stderr)
        self.assertIn("HF_TOKEN", self.preview(code=3, model="tiny/none").stderr)
        self.repo.commit({name: data for name, data in self.model.items() if not name.endswith(".safetensors")})
        self.assertIn("only safetensors are read", self.train(code=3).stderr)
        self.assertFalse([r for r in self.hub.requests if r["path"].endswith(".bin")])

    def test_a_mistyped_path_is_not_looked_for_on_the_hub(self):
        (self.work / "output").mkdir()
        for model in ("output/modle", "modle", "./a/b", "a/b/c"):
            self.assertIn("is no folder", self.preview(code=3, model=model).stderr)
        self.assertIn("no such file", self.preview(code=3, model=ID, dataset="spider/train.json").stderr)
        self.assertFalse([r for r in self.hub.requests if "modle" in r["path"] or "spider" in r["path"]])

    def test_a_gated_model_needs_a_token_that_the_cdn_never_sees(self):
        self.repo.gated = True
        error = self.preview(code=3).stderr
        self.assertIn("is gated", error)
        self.assertIn(f"{self.hub.endpoint}/{ID}", error)
        self.hub.tokens.update({"hf_good", "hf_stranger"})
        self.repo.members.add("hf_good")
        self.assertIn(f"set HF_TOKEN to a token of your account ({self.hub.endpoint}/settings/tokens)", error)
        self.assertIn("does not know the token", self.preview(code=3, HF_TOKEN="hf_bad").stderr)
        self.assertRegex(self.preview(code=3, HF_TOKEN="hf_stranger").stderr, "is gated.*accept its terms.*no access yet")
        self.hub.requests.clear()
        self.preview(HF_TOKEN="hf_good")
        self.assertEqual({r["token"] for r in self.hub.asked(server="hub")}, {"Bearer hf_good"})
        self.assertEqual({r["token"] for r in self.hub.asked(server="cdn")}, {None})

    def test_a_refusal_tells_what_the_hub_said(self):
        self.hub.refusal = (403, "", "Access to this resource is disabled.")
        error = self.preview(code=3).stderr
        self.assertIn("Access to this resource is disabled.", error)
        self.assertIn(f"{self.hub.endpoint}/{ID}", error)

    def test_a_mirror_that_leads_to_the_gate_of_the_hub(self):
        self.addCleanup(setattr, hub_server.Cdn, "route", hub_server.Cdn.route)
        hub_server.Cdn.route = lambda pages, parts: pages.refuse(401, "GatedRepo")
        self.assertIn("is gated", self.preview(code=3).stderr)

    def test_the_token_file(self):
        self.repo.private = True
        self.assertIn("or it is private", self.preview(code=3).stderr)
        self.hub.tokens.add("hf_good")
        self.home.mkdir(exist_ok=True)
        (self.home / "token").write_text("hf_good\n")
        self.preview()

    def test_hostile_answers_write_nothing_outside(self):
        self.data.commit({"data/train.jsonl": self.rows, "../../../../evil/train.jsonl": self.rows})
        self.preview(dataset=DATA)
        shutil.rmtree(self.home)
        git_hash, hub_server.git_hash = hub_server.git_hash, lambda data: "../../../evil"
        self.addCleanup(setattr, hub_server, "git_hash", git_hash)
        self.assertIn("this is no Hub", self.preview(code=5).stderr)
        self.assertEqual([path for path in self.work.rglob("evil*")], [])


class DataSets(HubTest):
    def test_only_the_splits_files_are_fetched(self):
        self.preview(dataset=DATA)
        snapshot = next((self.home / "hub/datasets--rows--chats/snapshots").iterdir())
        self.assertEqual([path.name for path in snapshot.rglob("*.*")], ["train.jsonl"])
        self.assertEqual(os.readlink(snapshot / "data/train.jsonl"),
                         f"../../../blobs/{hashlib.sha256(self.rows).hexdigest()}")
        self.preview(dataset=f"{{path: {DATA}, split: test}}")
        self.preview(dataset=DATA, HF_HUB_OFFLINE="1")
        self.assertIn("the split 'gold'", self.preview(dataset=f"{{path: {DATA}, split: gold}}", code=3).stderr)

    def test_a_file_named_after_no_split_is_the_training_set(self):
        commit = self.data.commit({"sql_v4.jsonl": self.rows}, "v4")
        self.preview(dataset=f"{{path: {DATA}, split: train, revision: v4}}")
        self.assertEqual((self.home / "hub/datasets--rows--chats/refs/v4").read_text(), commit)

    def test_parquet_is_refused_by_name(self):
        self.data.commit({"data/train-00000-of-00001.parquet": b"PAR1"})
        result = self.preview(dataset=DATA, code=2)
        self.assertIn("data/train-00000-of-00001.parquet: reading .parquet is not built yet", result.stderr)


if __name__ == "__main__":
    sys.exit(0 if unittest.main(exit=False, verbosity=2).result.wasSuccessful() else 1)
