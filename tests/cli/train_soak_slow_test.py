"""Two hundred SIGKILLs, fifty of them inside of a save: every run ends as if it had not been interrupted."""
import shutil
import signal
import subprocess
import time
import unittest

import tiny_model
from train_test import SEED, TrainRuns

KILLS, KILLS_IN_A_SAVE = 200, 50
WEIGHTS = ["adapter_model.safetensors", "adapter_config.json"]


class SoakTest(TrainRuns):
    def end_of(self, process, moment):
        """Kills the process at the moment, if it is not done before; its exit code."""
        while process.poll() is None and not moment():
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        self.stderr = process.communicate(timeout=300)[1]
        return process.returncode

    def saving(self, out):
        return any(path.name.startswith("tmp-") for path in out.iterdir()) if out.exists() else False

    def test_kills_leave_no_trace(self):
        keys = {"save_steps": 2, "eval_strategy": "no"}
        whole, cut = self.out / "whole", self.out / "cut"
        start = time.monotonic()
        self.succeed(whole, **keys)
        duration = time.monotonic() - start
        kills = kills_in_a_save = runs = 0
        while kills < KILLS or kills_in_a_save < KILLS_IN_A_SAVE:
            process = subprocess.Popen(tiny_model.command("train", *self.flags(cut, **keys)), stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True)
            in_a_save = kills_in_a_save < KILLS_IN_A_SAVE and self.random.random() < 0.5
            begin, wait = time.monotonic(), self.random.random() * duration
            code = self.end_of(process, lambda: time.monotonic() > begin + wait and (not in_a_save or self.saving(cut)))
            if code == -signal.SIGKILL:
                kills += 1
                kills_in_a_save += in_a_save
                continue
            self.assertEqual(code, 0, f"seed {SEED}, after {kills} kills: {self.stderr}")
            self.same_end(cut, whole, WEIGHTS)
            shutil.rmtree(cut)
            runs += 1
        self.assertGreater(runs, 0)
        print(f"{kills} kills, {kills_in_a_save} of them inside of a save, {runs} runs that came to their end")


if __name__ == "__main__":
    unittest.main(verbosity=2)
