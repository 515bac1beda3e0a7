"""AdamW with 8-bit and with fp32 moments against bitsandbytes and torch, step by step, on every device here.

bitsandbytes' CUDA kernels compute with fast math: an 8-bit code may land beside ours, if rarely. Its CPU back end keeps no
sign of small first moments; where a block holds gradients of many sizes it soon goes another way than its CUDA kernels,
so it is compared with after the first step alone.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"

import bitsandbytes as bnb
import torch
from safetensors.torch import load_file, save_file

PROBE = Path(os.environ["QLORA_BUILD"]) / "tests" / "probe_adamw"
STEPS = 20
SHAPES = {"a": (16, 1000), "b": (333, 16), "c": (77,), "d": (4095,), "e": (4096,), "f": (2048, 300)}
SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
failures = []


def check(ok, what):
    print("ok  " if ok else "DIFFERENT", what)
    if not ok:
        failures.append(what)


def make_case():
    torch.manual_seed(3)
    case = {f"value.{name}": torch.randn(shape) * 0.1 for name, shape in SHAPES.items()}
    for t in range(1, STEPS + 1):
        for name, shape in SHAPES.items():
            size = 10.0 ** torch.randint(-6, -1, (shape[0],) + (1,) * (len(shape) - 1))
            case[f"gradient.{t}.{name}"] = torch.randn(shape) * size * (torch.rand(shape) > 0.1)
    return case


def ours(case, device, bits):
    with tempfile.TemporaryDirectory() as folder:
        save_file(case, f"{folder}/in")
        subprocess.run([PROBE, device, str(bits), f"{folder}/in", f"{folder}/out"], check=True)
        return load_file(f"{folder}/out")


def theirs(case, device, make):
    parameters = {name: torch.nn.Parameter(case[f"value.{name}"].clone().to(device)) for name in SHAPES}
    optimizer = make(list(parameters.values()))
    values = {}
    for t in range(1, STEPS + 1):
        for name, parameter in parameters.items():
            parameter.grad = case[f"gradient.{t}.{name}"].to(device)
        optimizer.step()
        for name, parameter in parameters.items():
            values[f"value.{t}.{name}"] = parameter.detach().cpu().clone()
    return values, optimizer, parameters


def distance(a, b, case, t):
    """How far two runs are apart after step t, in units of how far they went."""
    apart = sum(float((a[f"value.{t}.{n}"].double() - b[f"value.{t}.{n}"].double()).square().sum()) for n in SHAPES)
    went = sum(float((b[f"value.{t}.{n}"].double() - case[f"value.{n}"].double()).square().sum()) for n in SHAPES)
    return (apart / went) ** 0.5


def compare_8bit(case, device):
    mine = ours(case, device, 8)
    values, optimizer, parameters = theirs(case, device, lambda p: bnb.optim.AdamW8bit(p, **SETTINGS))
    limits = {1: 1e-4, STEPS: 1e-3} if device == "cuda" else {1: 1e-4}  # theirs rounds 1 - 0.999^1 coarsely
    for t, limit in limits.items():
        apart = distance(mine, values, case, t)
        check(apart < limit, f"{device}, 8 bits, step {t}: {apart:.2e} of the way apart")
    codes = 0
    begin, off, signs = 0, 0, 0
    for name in SHAPES:
        state = optimizer.state[parameters[name]]
        if state["state1"].dtype != torch.uint8:
            check(parameters[name].numel() < 4096, f"{name} has fp32 moments")
            continue
        count = parameters[name].numel()
        for own, other in (("exp_avg_codes", "state1"), ("exp_avg_sq_codes", "state2")):
            mine_codes = mine[own][begin:begin + count].int()
            difference = (mine_codes - state[other].cpu().reshape(-1).int()).abs()
            off += int((difference > 0).sum())
            signs += int((difference > 1).sum())
        codes += 2 * count
        begin += count
    check(begin == mine["exp_avg_codes"].numel(), "the same tensors have 8-bit moments")
    share = off / codes
    check(share < (1e-4 if device == "cuda" else 0.05), f"{device}: {off} of {codes} codes differ, {signs} by more than one")


def compare_fp32(case, device):
    mine = ours(case, device, 32)
    values, _, _ = theirs(case, device, lambda p: torch.optim.AdamW(p, **SETTINGS))
    apart = distance(mine, values, case, STEPS)
    check(apart < 1e-6, f"{device}, fp32: {apart:.2e} of the way apart from torch.optim.AdamW")


def main():
    case = make_case()
    for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
        compare_8bit(case, device)
        compare_fp32(case, device)
    if torch.cuda.is_available():
        cpu, gpu = ours(case, "cpu", 8), ours(case, "cuda", 8)
        narrow = [key for key in cpu if key.endswith(("_codes", "_absmax"))]
        check(all(torch.equal(cpu[key], gpu[key]) for key in narrow), "8-bit moments of CPU and GPU are the same bits")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
