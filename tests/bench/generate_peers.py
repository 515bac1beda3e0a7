"""generate_peers.py [Qwen1.5-1.8B | Llama-3.1-8B] [key=value ...]: transformers.generate over random bf16 weights in a real
model's shape, left-padded batches, greedy, beside generate_speed. Keys as there: prompts (256), batch (64), new (64),
nf4 (0; 1 needs bitsandbytes). Exits with 77 where transformers or a GPU is missing."""
import json
import sys
import time

try:
    import torch
    import transformers
except ImportError as error:
    print(error)
    sys.exit(77)
if not torch.cuda.is_available():
    print("no GPU")
    sys.exit(77)

SHAPES = {  # class, hidden, layers, heads, kv heads, intermediate, vocabulary
    "Qwen1.5-1.8B": (transformers.Qwen2Config, 2048, 24, 16, 16, 5504, 151936),
    "Llama-3.1-8B": (transformers.LlamaConfig, 4096, 32, 32, 8, 14336, 128256),
}


def make_model(name, nf4):
    kind, hidden, layers, heads, kv_heads, intermediate, vocabulary = SHAPES[name]
    config = kind(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                  intermediate_size=intermediate, vocab_size=vocabulary, max_position_embeddings=8192,
                  tie_word_embeddings=False)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    if nf4:
        import bitsandbytes as bnb
        for parent in list(model.model.modules()):
            for child, linear in list(parent.named_children()):
                if type(linear) is not torch.nn.Linear:
                    continue
                made = bnb.nn.Linear4bit(linear.in_features, linear.out_features, linear.bias is not None,
                                         compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4")
                made.load_state_dict(linear.state_dict())
                setattr(parent, child, made.to("cuda"))
    return model, vocabulary


def main():
    name = sys.argv[1] if len(sys.argv) > 1 else "Qwen1.5-1.8B"
    options = {"prompts": 256, "batch": 64, "new": 64, "nf4": 0}
    options.update({key: int(value) for key, value in (text.split("=") for text in sys.argv[2:])})
    model, vocabulary = make_model(name, options["nf4"])
    lengths = [60 + p * 7919 % 241 for p in range(options["prompts"])]  # as generate_speed's

    def generate(batch):
        longest = max(batch)
        ids = torch.randint(vocabulary, (len(batch), longest), device="cuda")
        mask = torch.arange(longest, device="cuda") >= longest - torch.tensor(batch, device="cuda").unsqueeze(1)
        with torch.inference_mode():
            out = model.generate(input_ids=ids, attention_mask=mask.long(), max_new_tokens=options["new"],
                                 min_new_tokens=options["new"], do_sample=False, pad_token_id=0, eos_token_id=1)
        return out.shape[0] * (out.shape[1] - longest)

    batches = [lengths[b:b + options["batch"]] for b in range(0, len(lengths), options["batch"])]
    generate(batches[0])
    torch.cuda.synchronize()
    start = time.perf_counter()
    tokens = sum(generate(batch) for batch in batches)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    print(json.dumps({"way": "transformers " + transformers.__version__, "shape": name, **options,
                      "tokens_per_second": round(tokens / seconds), "seconds": round(seconds, 3)}))


main()
