"""NF4 on the CPU against the model of bitsandbytes' CUDA kernels, and against bitsandbytes itself on every device here.

bitsandbytes' CPU back end differs from its CUDA one by known causes (zero blocks, subnormals, huge blocks, thresholds an
ulp off, a division in the last block). Each is put into a second NumPy model; that model must give the CPU back end's
bytes exactly, ours must equal the first model exactly: so no difference is left without a cause.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # bitsandbytes' odd shapes would be compiled one by one

import bitsandbytes.functional as bnb
import numpy as np
import torch
from safetensors.torch import load_file, save_file

import nf4_cases as nf4

f32 = np.float32
TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
PROBE = Path(os.environ["QLORA_BUILD"]) / "tests" / "probe_nf4"
failures = []


def check(ok, what):
    if not ok:
        failures.append(what)
        if len(failures) <= 20:
            print("DIFFERENT:", what)


def tensor(case):
    stored = torch.from_numpy(case.stored.copy())
    return stored.view(torch.bfloat16) if case.dtype == "BF16" else stored


def raw(value):
    """A torch tensor as unsigned integers of its element size."""
    value = value.detach().cpu().contiguous().reshape(-1)
    return value.view(torch.uint8).numpy().view({1: np.uint8, 2: np.uint16, 4: np.uint32}[value.element_size()])


def same(a, b):
    return np.array_equal(np.ascontiguousarray(a).view(np.uint8), np.ascontiguousarray(b).view(np.uint8))


def probe(command, tensors):
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, f"{folder}/in")
        done = subprocess.run([PROBE, command, f"{folder}/in", f"{folder}/out"], capture_output=True, text=True)
        check(done.returncode == 0, f"probe_nf4 {command}: {done.stderr}")
        return load_file(f"{folder}/out"), done.stdout


def cpu_quantize(values):
    """bitsandbytes' CPU back end: no flushing, absmax at least 1e-38, midpoints, a division in a partial last block."""
    count = len(values)
    full = count - count % 64
    with np.errstate(all="ignore"):
        blocks = values[:full].reshape(-1, 64)
        absmax = np.abs(blocks).max(1) if full else np.zeros(0, f32)
        scaled = np.clip(blocks * (f32(1) / np.maximum(absmax, f32(1e-38)))[:, None], -1, 1).reshape(-1)
        if count > full:
            top = np.maximum(np.abs(values[full:]).max(), f32(1e-38))
            absmax = np.append(absmax, top)
            scaled = np.append(scaled, np.clip(values[full:] / top, -1, 1))
    scaled = np.append(scaled, np.zeros(count % 2, f32)).astype(f32)
    q = (scaled[:, None] > nf4.MIDPOINTS).sum(1).astype(np.uint8)
    return q[0::2] << 4 | q[1::2], absmax.astype(f32)


def cause_of(values, byte):
    block = values[byte * 2 // 64 * 64:][:64]
    top = np.abs(block).max()
    if top == 0:
        return "zero block"
    if top < nf4.TINY:
        return "subnormal block"
    if top > 2.0 ** 126:
        return "huge block"
    if (np.abs(values[byte * 2:byte * 2 + 2]) < nf4.TINY).any() and not (values[byte * 2:byte * 2 + 2] == 0).all():
        return "subnormal value"
    return "threshold an ulp off, or division in the last block"


def compare_quantize(cases, ours):
    causes, differing, total = {}, 0, 0
    for case in cases:
        codes, absmax = nf4.quantize(case.values)
        check(same(raw(ours[f"{case.name}.plain"]), codes), f"{case.name}: codes")
        check(same(raw(ours[f"{case.name}.plain.absmax"]), absmax), f"{case.name}: absmax")

        got, state = bnb.quantize_4bit(tensor(case), blocksize=64, quant_type="nf4")
        cpu_codes, cpu_absmax = cpu_quantize(case.values)
        check(same(raw(got), cpu_codes), f"{case.name}: codes of the CPU back end are not as modelled")
        check(same(raw(state.absmax), cpu_absmax), f"{case.name}: absmax of the CPU back end is not as modelled")
        total += len(codes)
        for byte in np.flatnonzero(codes != cpu_codes):
            cause = cause_of(case.values, byte)
            causes[cause] = causes.get(cause, 0) + 1
            differing += 1
    print(f"quantize: {len(cases)} tensors, {total} bytes equal to the CUDA model; the CPU back end differs in {differing}:")
    for cause, n in sorted(causes.items()):
        print(f"  {cause}: {n}")


def compare_nested(cases, ours, table):
    steps, off, degenerate, total = 0, 0, 0, 0
    for case in cases:
        if f"{case.name}.nested" not in ours:
            continue
        absmax = raw(ours[f"{case.name}.plain.absmax"]).view(f32)
        codes, top, offset = nf4.nest(absmax, table)
        state = eval(bytes(raw(ours[f"{case.name}.nested.quant_state.bitsandbytes__nf4"])).decode())
        got = raw(ours[f"{case.name}.nested.absmax"])
        check(same(got, codes), f"{case.name}: nested codes")
        check(same(raw(ours[f"{case.name}.nested.nested_absmax"]), top), f"{case.name}: nested absmax")
        check(f32(state["nested_offset"]) == offset, f"{case.name}: offset")
        centred = torch.from_numpy(absmax - offset)
        cpu, cpu_state = bnb.quantize_blockwise(centred, blocksize=256)
        groups = np.repeat(raw(cpu_state.absmax).view(f32), 256)[:len(got)]
        difference = np.abs(raw(cpu).astype(int) - got.astype(int))
        ordinary = (groups > 2.0 ** -100) & (groups <= 2.0 ** 126)  # elsewhere the GPU flushes and the CPU does not
        off_scale = difference[ordinary]
        degenerate += int((~ordinary).sum())
        total += len(off_scale)
        off += int((off_scale > 0).sum())
        steps = max(steps, int(off_scale.max(initial=0)))
    print(f"nested scales: {total} equal to the CUDA model; the CPU back end differs in {off}, by {steps} step at most "
          f"({degenerate} in groups of equal, tiny or huge scales not compared with it)")
    check(steps <= 1 and off <= 0.005 * total, "nested codes are further from the CPU back end than rounding explains")


def quant_state(name, ours, dtype, shape, nested):
    get = lambda key: ours[f"{name}.{key}"]
    inner, offset = None, None
    if nested:
        offset = torch.tensor(eval(bytes(raw(get("quant_state.bitsandbytes__nf4"))).decode())["nested_offset"])
        inner = bnb.QuantState(absmax=get("nested_absmax"), blocksize=256, code=get("nested_quant_map"), dtype=torch.float32)
    return bnb.QuantState(absmax=get("absmax"), shape=shape, code=get("quant_map"), blocksize=64, quant_type="nf4",
                          dtype=dtype, offset=offset, state2=inner)


def compare_dequantize(cases, ours):
    values, flushed = 0, 0
    for case in cases:
        for kind in ("plain", "nested"):
            name = f"{case.name}.{kind}"
            if name not in ours:
                continue
            shape = torch.Size([len(case.values)])
            for label, dtype in TYPES.items():
                state = quant_state(name, ours, dtype, shape, kind == "nested")
                theirs = raw(bnb.dequantize_4bit(ours[name], state))
                mine = raw(ours[f"{name}.{label}"])
                wrong = theirs != mine
                values += len(mine)
                if wrong.any():  # only products below 2^-126, which the GPU makes zero
                    flushed += int(wrong.sum())
                    excused = ours[f"{name}.F32"].numpy() == 0
                    if kind == "nested":
                        excused |= np.repeat(ours[f"{name}.nested_absmax"].numpy() < 2.0 ** -100, 256 * 64)[:len(mine)]
                    check(excused[wrong].all(), f"{name}: decoded to {label}")
    print(f"dequantize: {values} values bit-equal to bitsandbytes' CPU, but {flushed} with subnormal products, which the GPU flushes")


def compare_serialized(cases, ours):
    compared = 0
    packed = {}
    for case in cases[:60]:
        for kind in ("plain", "nested"):
            name = f"{case.name}.{kind}"
            if name not in ours:
                continue
            state = quant_state(name, ours, TYPES[case.dtype], torch.Size([len(case.values)]), kind == "nested")
            theirs = state.as_dict(packed=True)
            mine = {key[len(name) + 1:]: value for key, value in ours.items()
                    if key.startswith(name + ".") and key[len(name) + 1:] not in TYPES}
            check(mine.keys() == theirs.keys(), f"{name}: keys {sorted(mine)} against {sorted(theirs)}")
            for key, value in theirs.items():
                check(key in mine and value.shape == mine[key].shape and same(raw(value), raw(mine[key])), f"{name}.{key}")
            packed |= {f"{case.name}.{kind}.weight.{key}": value.clone() for key, value in theirs.items()}
            packed[f"{case.name}.{kind}.weight"] = ours[name].clone()
            compared += 1
    decoded, _ = probe("dequantize", packed)
    for case in cases[:60]:
        for kind in ("plain", "nested"):
            name = f"{case.name}.{kind}"
            if name in ours:
                check(f"{name}.weight" in decoded and same(raw(decoded[f"{name}.weight"]), raw(ours[f"{name}.{case.dtype}"])),
                      f"{name}: read back from bitsandbytes' keys")
    print(f"serialized: {compared} tensors: keys, shapes and bytes (the JSON's too) equal, and read back")


def compare_mantissas():
    total = 0
    for dtype, stride in (("BF16", 1), ("F16", 8)):
        tensors, expected = {}, {}
        for i, blocks in enumerate(nf4.mantissa_pairs(dtype)):
            if i % stride == 0:
                case = nf4.Case(str(i), blocks, dtype)
                tensors[case.name], expected[case.name] = tensor(case), nf4.quantize(case.values)[0]
                total += len(case.values)
        ours, _ = probe("quantize", tensors)
        for name, codes in expected.items():
            check(same(raw(ours[f"{name}.plain"]), codes), f"{dtype} mantissa {name}")
    print(f"mantissa pairs: {total} values equal to the CUDA model")


def compare_cuda(cases, ours):
    """On a machine with a GPU: the real kernels. fp32 input may differ where the approximate reciprocal does."""
    fp32_bytes = 0
    for case in cases:
        for kind in ("plain", "nested"):
            name = f"{case.name}.{kind}"
            if name not in ours:
                continue
            codes, state = bnb.quantize_4bit(tensor(case).cuda(), blocksize=64, quant_type="nf4",
                                             compress_statistics=kind == "nested")
            wrong = int((raw(codes) != raw(ours[name])).sum())
            if case.dtype == "F32":
                fp32_bytes += wrong
            else:
                check(wrong == 0, f"{name}: codes on the GPU")
            check(same(raw(state.absmax), raw(ours[f"{name}.absmax"])), f"{name}: absmax on the GPU")
            if not wrong:
                check(same(raw(bnb.dequantize_4bit(codes, state)), raw(ours[f"{name}.{case.dtype}"])), f"{name}: decoded on the GPU")
    print(f"bitsandbytes on {torch.cuda.get_device_name()}: all bytes equal, but {fp32_bytes} of fp32 input")
    check(fp32_bytes <= 40, "too many codes of fp32 input differ from the GPU's")


def main():
    torch.set_num_threads(1)
    cases = nf4.make_cases()
    table = nf4.dynamic_map()
    check(same(table, bnb.create_dynamic_map().numpy()), "the dynamic map")
    check(same(nf4.CODE, bnb.get_4bit_type("nf4", device="cpu").numpy()), "the code values")
    ours, refused = probe("quantize", {case.name: tensor(case) for case in cases})
    for line in refused.splitlines():  # only sums that overflow
        check("leaves fp32" in line, line)
    first = next(iter(name for name in ours if name.endswith("nested_quant_map")))
    check(same(raw(ours[first]), table), "the written dynamic map")
    compare_quantize(cases, ours)
    compare_nested(cases, ours, table)
    compare_dequantize(cases, ours)
    compare_serialized(cases, ours)
    compare_mantissas()
    if torch.cuda.is_available():
        compare_cuda(cases, ours)
    print(f"{len(failures)} differences")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
