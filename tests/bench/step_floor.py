"""What one QLoRA micro-step must take at least: its parts timed alone, each by the best kernel that PyTorch offers, and
added up. Nothing overlaps, nothing is launched late.

  step_floor.py SHAPE [--tokens 4096] [--row 2048] [--rank 16] [--recompute]    prints one JSON line

--recompute: of each layer all but its last projection is made again in the backward pass.

Parts: frozen products forward and for the input's gradient; LoRA's products (a second accumulating product, and the
gradients of A and B); causal attention; NF4 codes decoded twice, and the element-wise passes, at the measured speed of a
copy; the head over all tokens with its loss."""
import argparse
import json

import torch

SHAPES = {  # hidden, layers, heads, kv heads, head dim, intermediate, vocabulary
    "Qwen3-0.6B": (1024, 28, 16, 8, 128, 3072, 151936),
    "Qwen1.5-1.8B": (2048, 24, 16, 16, 128, 5504, 151936),
    "Qwen3-1.7B": (2048, 28, 16, 8, 128, 6144, 151936),
    "Llama-3.1-8B": (4096, 32, 32, 8, 128, 14336, 128256),
    "Llama-2-70B": (8192, 80, 64, 8, 128, 28672, 32000),
}
CODE_BYTES = 0.5 + 1 / 64  # of a weight in NF4 with nested scales


def tensor(*shape):
    return torch.randn(shape, device="cuda").to(torch.bfloat16)


def time_of(run, repeats=20):
    """Seconds of one run: the median of five graph replays of `repeats` runs each."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
        run()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            run()
    graph.replay()
    samples = []
    for _ in range(5):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        graph.replay()
        last.record()
        last.synchronize()
        samples.append(first.elapsed_time(last) / repeats / 1e3)
    return sorted(samples)[2]


def linear_time(tokens, out, into, rank):
    """(frozen, LoRA, both forward) seconds of a projection: forward and backward, and what is made again of it."""
    x, d_x, weight = tensor(tokens, into), tensor(tokens, into), tensor(out, into)
    y, a, b, low = tensor(tokens, out), tensor(rank, into), tensor(out, rank), tensor(tokens, rank)
    d_a, d_b = tensor(rank, into), tensor(out, rank)
    forward = time_of(lambda: torch.mm(x, weight.t(), out=y))
    frozen = forward + time_of(lambda: torch.mm(y, weight, out=d_x))

    def lora_forward():
        torch.mm(x, a.t(), out=low)
        y.addmm_(low, b.t())

    def lora():
        lora_forward()
        torch.mm(y, b, out=low)
        d_x.addmm_(low, a)
        torch.mm(y.t(), low, out=d_b)
        torch.mm(low.t(), x, out=d_a)
    return frozen, time_of(lora), forward + time_of(lora_forward)


def attention_time(rows, row, heads, kv_heads, dim):
    """Seconds of forward and backward, and of forward alone: the faster of cuDNN and FlashAttention."""
    best = (float("inf"), 0.0)
    q, k, v = tensor(rows, heads, row, dim), tensor(rows, kv_heads, row, dim), tensor(rows, kv_heads, row, dim)
    for x in (q, k, v):
        x.requires_grad_()
    for backend in (torch.nn.attention.SDPBackend.CUDNN_ATTENTION, torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        with torch.nn.attention.sdpa_kernel(backend):
            def forward():
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

            def both():
                out = forward()
                torch.autograd.grad(out, (q, k, v), out)
            seconds = []
            for run in (both, forward):
                for _ in range(3):
                    run()
                first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                first.record()
                for _ in range(20):
                    run()
                last.record()
                last.synchronize()
                seconds.append(first.elapsed_time(last) / 20 / 1e3)
            best = min(best, tuple(seconds))
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--row", type=int, default=2048)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--recompute", action="store_true")
    options = parser.parse_args()
    hidden, layers, heads, kv_heads, dim, inner, vocabulary = SHAPES[options.shape]
    tokens, rank = options.tokens, options.rank

    warm = tensor(8192, 8192)
    for _ in range(200):
        warm @ warm
    # By a kernel: in a graph a plain copy goes through the slower copy engine.
    source, target = torch.zeros(1 << 28, device="cuda"), torch.empty(1 << 28, device="cuda")
    speed = 2 * source.nbytes / time_of(lambda: torch.neg(source, out=target), 5)
    del source, target, warm

    qkv = (heads + 2 * kv_heads) * dim
    linears = [(qkv, hidden, 3 * rank), (hidden, heads * dim, rank), (2 * inner, hidden, 2 * rank), (hidden, inner, rank)]
    times = [linear_time(tokens, *linear) for linear in linears]
    weights = sum(out * into for out, into, _ in linears)
    # Numbers read and written a token: two norms (2 + 4 each), RoPE twice, SwiGLU (3 + 5).
    numbers = 2 * 6 * hidden + 2 * 2 * (heads + kv_heads) * dim + 8 * inner
    attention = attention_time(tokens // options.row, options.row, heads, kv_heads, dim)
    x, head, logits = tensor(tokens, hidden), tensor(vocabulary, hidden), tensor(tokens, vocabulary)
    parts = {
        "frozen": layers * sum(t[0] for t in times),
        "lora": layers * sum(t[1] for t in times),
        "attention": layers * attention[0],
        "dequantize": layers * 2 * weights * (2 + CODE_BYTES) / speed,
        "element_wise": layers * tokens * 2 * numbers / speed,
        "head": time_of(lambda: torch.mm(x, head.t(), out=logits), 4) + time_of(lambda: torch.mm(logits, head, out=x), 4)
        + 3 * 2 * tokens * vocabulary / speed,
    }
    if options.recompute:  # forward: two norms (4), RoPE, SwiGLU (3); what the last projection is decoded for is not needed
        again = 2 * 4 * hidden + 2 * (heads + kv_heads) * dim + 3 * inner
        decoded = (weights - linears[-1][0] * linears[-1][1]) * (2 + CODE_BYTES) / speed
        parts["again"] = layers * (sum(t[2] for t in times[:-1]) + attention[1] + decoded + tokens * 2 * again / speed)
    print(json.dumps({"shape": options.shape, "tokens": tokens, "copy_tb_per_second": round(speed / 1e12, 2),
                      "ms": {name: round(1e3 * seconds, 2) for name, seconds in parts.items()},
                      "tokens_per_second": round(tokens / sum(parts.values()))}))


if __name__ == "__main__":
    main()
