"""Tensors that test NF4 quantization, and a NumPy model of what bitsandbytes' CUDA kernels make of them."""
import numpy as np

f32 = np.float32
CODE = np.array([-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                 -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725,
                 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023,
                 1], f32)
# The decimals of the CUDA source, each rounded once to fp32 (not through a double: four would be an ulp off).
THRESHOLDS = np.array([np.float32(text) for text in (
    "-0.8480964004993439 -0.6106329262256622 -0.4599952697753906 -0.33967943489551544 -0.23460740596055984 "
    "-0.13791173323988914 -0.045525018125772476 0.03979014977812767 0.1202552504837513 0.2035212516784668 "
    "0.2920137718319893 0.3893125355243683 0.5016634166240692 0.6427869200706482 0.8614784181118011").split()], f32)
for index, value in ((0, "-0x1.b239b2p-1"), (8, "0x1.ec90c6p-4"), (12, "0x1.00da06p-1"), (14, "0x1.b913b2p-1")):
    THRESHOLDS[index] = float.fromhex(value)
MIDPOINTS = ((CODE[:-1] + CODE[1:]) / f32(2)).astype(f32)  # what the CPU back end compares with
TINY = f32(2.0 ** -126)


def to_bf16(x):
    """fp32 -> bits of bfloat16, to nearest even (finite values)."""
    bits = np.ascontiguousarray(x, f32).view(np.uint32)
    return ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(f32)


class Case:
    """A flat tensor: `stored` as bytes of `dtype` ("BF16" as uint16 bits), `values` the same in fp32."""

    def __init__(self, name, values, dtype):
        self.name, self.dtype = name, dtype
        values = np.ascontiguousarray(values, f32).reshape(-1)
        self.stored = {"BF16": to_bf16, "F16": lambda v: v.astype(np.float16), "F32": lambda v: v}[dtype](values)
        self.values = {"BF16": from_bf16, "F16": lambda s: s.astype(f32), "F32": lambda s: s}[dtype](self.stored)


def make_cases(random_tensors=1000):
    rng = np.random.Generator(np.random.PCG64(64))
    cases = []

    def add(name, values, dtype):
        with np.errstate(over="ignore"):
            case = Case(f"{name}/{dtype}", values, dtype)
        if np.isfinite(case.values).all():
            cases.append(case)

    for i in range(random_tensors):
        dtype = ("BF16", "F16", "F32")[i % 3]
        count = int(rng.integers(1, 5000))
        values = rng.standard_normal(count) * 10.0 ** rng.uniform(-4, 1)
        kind = i % 7
        if kind == 1:    # whole blocks and single values of zero
            values[rng.random(count) < 0.3] = 0
            values[:min(count, 130)] = 0
        elif kind == 2:  # a scale for each block, denormals of the type among them
            values *= 10.0 ** rng.uniform(-9, 3, -(-count // 64)).repeat(64)[:count]
        elif kind == 3:  # few distinct values: ties at absmax, repeats
            values = rng.choice([-1.0, -0.5, 0.0, 0.25, 1.0], count)
        elif kind == 4:  # heavy tails
            values = rng.standard_t(2, count)
        elif kind == 5:  # values around the thresholds
            values = rng.choice(THRESHOLDS, count) * (1 + rng.integers(-2, 3, count) * 2.0 ** -23)
            values[::64] = 1
        add(f"random_{i}", values, dtype)
    for dtype in ("BF16", "F16", "F32"):
        for count in (1, 2, 3, 5, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 16383, 16385, 16449):
            add(f"tail_{count}", rng.standard_normal(count) * 0.02, dtype)
            add(f"zero_tail_{count}", np.append(rng.standard_normal(64), np.zeros(count)), dtype)
            add(f"zero_{count}", np.zeros(count), dtype)
            add(f"equal_{count}", np.full(count, -0.37), dtype)
        for scale in (1.0, 0.5, 3.0, 0.0123):  # thresholds and one ulp on either side
            near = np.stack([THRESHOLDS, np.nextafter(THRESHOLDS, f32(9)), np.nextafter(THRESHOLDS, f32(-9))]) * f32(scale)
            rows = np.concatenate([np.full((3, 1), scale), near, np.zeros((3, 48))], 1)
            add(f"threshold_{scale}", rows, dtype)
    for dtype in ("BF16", "F32"):  # every exponent, the ends included; subnormal and huge, whole and in tails
        pattern = np.zeros(64)
        pattern[:6] = [1.5, 0.75, -0.4, 1.1, -1.5, 0.2]
        tops = np.exp2(np.arange(-149.0, 127.0))
        add("exponents", pattern[None] * tops[:, None], dtype)
        for power in (-149, -140, -133, -130, -127, -126.5, -126, -125, -120, 125, 126, 126.5, 127):
            for count in (63, 64, 65):
                add(f"top_2^{power}_{count}", pattern[np.arange(count) % 6] * 2.0 ** (power - 1), dtype)
        add("subnormal_blocks", rng.standard_normal(64 * 600) * 2.0 ** -127, dtype)
        add("subnormal_scales", rng.standard_normal(64 * 600) * 2.0 ** -125, dtype)
        add("huge_scales", rng.standard_normal(64 * 600) * 2.0 ** 123, dtype)
    return cases


def mantissa_pairs(dtype):
    """Yields fp32 [n, 64] blocks: every mantissa of `dtype` as absmax in [1, 2) against every value from 2^-6 up to it."""
    steps = {"BF16": 128, "F16": 1024}[dtype]
    tops = (1 + np.arange(steps) / steps).astype(f32)
    values = (np.exp2(np.arange(-6.0, 1.0))[:, None] * tops[None]).reshape(-1)
    values = np.concatenate([values, -values]).astype(f32)
    values = np.append(values, np.zeros(-len(values) % 63, f32)).reshape(-1, 63)
    for top in tops:
        inside = np.where(np.abs(values) <= top, values, f32(0))
        yield np.concatenate([np.full((len(values), 1), top, f32), inside], 1)


# ---------------------------------------------------------------- the model of the CUDA kernels (built with fast math)

def flush(x):
    """Subnormal operands and results are zero there."""
    return np.where(np.abs(x) < TINY, np.copysign(f32(0), x), x).astype(f32)


def reciprocal(x):
    with np.errstate(all="ignore"):
        return flush(f32(1) / flush(x))


def quantize(values, thresholds=THRESHOLDS):
    """fp32 -> packed codes, absmax."""
    count = len(values)
    blocks = flush(np.append(values, np.zeros(-count % 64, f32)).reshape(-1, 64))
    absmax = np.abs(blocks).max(1)
    with np.errstate(all="ignore"):
        q = (flush(blocks * reciprocal(absmax)[:, None])[:, :, None] > thresholds).sum(2)
    q = q.reshape(-1)[:count + count % 2].astype(np.uint8)
    return q[0::2] << 4 | q[1::2], absmax


def dynamic_map():
    values = [0.0, 1.0]
    for i in range(7):
        n = 2 ** i
        step = np.float64((f32(1) - f32(0.1)) / f32(n))  # torch.linspace: fp32 with fused multiply-adds, from both ends
        edges = np.array([f32(0.1) + step * k if k < (n + 1) // 2 else 1 - step * (n - k) for k in range(n + 1)], f32)
        middles = (edges[1:] + edges[:-1]) / f32(2) * f32(10.0 ** (i - 6))
        values += [*middles, *-middles]
    return np.sort(np.array(values, f32))


def torch_cuda_sum(x, multiprocessors=132):
    """fp32 sum in the order of torch's reduction kernel on a GPU with that many multiprocessors."""
    count = len(x)
    vector = 4 if count > 128 else 1  # values a load
    threads = min(512, 1 << ((count // vector).bit_length() - 1))
    values_per_thread = -(-count // threads)
    grid = 1
    if values_per_thread >= 256:
        widest = multiprocessors * (2048 // threads)
        grid = max(min(widest, -(-values_per_thread // 16)), -(-values_per_thread // 256))
    lanes = np.zeros((4, grid * threads), f32)
    if vector == 4:
        whole = x[:count // 4 * 4].reshape(-1, 4).T
        for start in range(0, whole.shape[1], grid * threads):
            part = whole[:, start:start + grid * threads]
            lanes[:, :part.shape[1]] += part
        tail = x[count // 4 * 4:]
        lanes[0, :len(tail)] += tail
    else:
        for round_, start in enumerate(range(0, count, threads)):
            part = x[start:start + threads]
            lanes[round_ % 4, :len(part)] += part
    value = lanes[0] + lanes[1] + lanes[2] + lanes[3]
    value = tree(value.reshape(grid, threads))
    if grid == 1:
        return value[0]
    partial = np.zeros(threads, f32)
    for start in range(0, grid, threads):
        part = value[start:start + threads]
        partial[:len(part)] += part
    return tree(partial[None])[0]


def tree(value):
    """[n, power of two] -> [n]: halves added onto each other."""
    while value.shape[1] > 1:
        half = value.shape[1] // 2
        value = value[:, :half] + value[:, half:]
    return value[:, 0]


def mean(x):
    return f32(torch_cuda_sum(x) * f32(f32(1) / f32(len(x))))


def nest(absmax, table):
    """absmax -> 8-bit codes, nested absmax, offset."""
    count = len(absmax)
    with np.errstate(all="ignore"):
        offset = mean(absmax)
        centred = flush(absmax - offset)
        groups = np.append(centred, np.zeros(-count % 256, f32)).reshape(-1, 256)
        top = np.abs(groups).max(1)
        scaled = flush(groups * reciprocal(top)[:, None]).reshape(-1)[:count]
    return search(scaled, table), top, offset


def search(x, table):
    """The kernels' search: from entry 127 in steps 64..1, then the nearer neighbour; ties and NaN stay."""
    pivot, upper, lower = np.full(x.shape, 127), np.full(x.shape, 255), np.zeros(x.shape, int)
    for step in (64, 32, 16, 8, 4, 2, 1):
        above = x > table[pivot]
        lower, upper = np.where(above, pivot, lower), np.where(above, upper, pivot)
        pivot = np.where(above, pivot + step, pivot - step)
    here = table[pivot]
    up = x > (table[upper] + here) * f32(0.5)
    down = x < (table[lower] + here) * f32(0.5)
    return np.where(x > here, np.where(up, upper, pivot), np.where(down, lower, pivot)).astype(np.uint8)


def unnest(codes, top, offset, table):
    with np.errstate(all="ignore"):
        return flush(table[codes] * np.repeat(top, 256)[:len(codes)]) + offset


def dequantize(packed, absmax, count):
    """fp32 values; bfloat16 and float16 are these, rounded once."""
    q = np.stack([packed >> 4, packed & 15], 1).reshape(-1)[:count]
    with np.errstate(all="ignore"):
        return flush(CODE[q] * np.repeat(absmax, 64)[:count])
