"""Adapters on experts: PEFT, over transformers 5, has one A and B for all experts of a layer; taken apart here into those
of each expert's linears, as checkpoints, transformers 4 and qlora name them."""
import json
import re

import models  # first: it quietens the packages below

import peft
import safetensors.torch
import torch

TARGETS = {"mixtral": ["q_proj", "v_proj", "gate", "w1", "w3", "w2"],
           "qwen3_moe": ["q_proj", "o_proj", "gate", "gate_proj", "up_proj", "down_proj"]}
NAMES = {"mixtral": ("block_sparse_moe", "w1", "w3", "w2"), "qwen3_moe": ("mlp", "gate_proj", "up_proj", "down_proj")}
FUSED = re.compile(r"(.*)\.mlp\.experts(\.base_layer)?\.lora_([AB])\.weight")


def plain(name):
    return name.removeprefix("base_model.model.").replace(".default", "")


def blocks(matrix, which, experts):
    """A [experts, rank, in], or B [experts, out, rank], as views of the fused one."""
    if which == "A":
        return matrix.view(experts, -1, matrix.shape[1])
    return matrix.view(matrix.shape[0], -1, experts).permute(2, 0, 1)


def halves(block, which):
    """The parts of A or B of one expert that are gate's and up's."""
    rank = block.shape[0 if which == "A" else 1] // 2
    if which == "A":
        return block[:rank], block[rank:]
    return block[:block.shape[0] // 2, :rank], block[block.shape[0] // 2:, rank:]


def apart(kind, experts, tensors):
    """Of {name: tensor} by PEFT's names, with adapters on gate_up_proj and down_proj both."""
    mixture, gate, up, down = NAMES[kind]
    result = {}
    for name, tensor in tensors.items():
        name = plain(name)
        match = FUSED.fullmatch(name)
        if not match:
            result[name.replace(".mlp.gate.", f".{mixture}.gate.")] = tensor.contiguous()
            continue
        layer, wrapped, which = match.groups()
        for e, block in enumerate(blocks(tensor, which, experts)):
            place = lambda linear: f"{layer}.{mixture}.experts.{e}.{linear}.lora_{which}.weight"
            if wrapped:
                result[place(gate)], result[place(up)] = (part.contiguous() for part in halves(block, which))
            else:
                result[place(down)] = block.contiguous()
    return result


def keep_apart(model, experts):
    """Of B of gate_up_proj only what an expert's own gate and up have is there, and is trained."""
    for name, parameter in model.named_parameters():
        match = FUSED.fullmatch(plain(name))
        if not match or not match[2] or match[3] == "A":
            continue
        mask = torch.zeros_like(parameter)
        for block in blocks(mask, "B", experts):
            for part in halves(block, "B"):
                part.fill_(1.0)
        with torch.no_grad():
            parameter.mul_(mask)
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient, mask=mask: gradient * mask)
    return model


def write_adapter(base, folder, kind, seed, r=4, lora_alpha=8, spread=0.05):
    """An adapter with random B, and A as PEFT starts it, under each expert's names."""
    torch.manual_seed(seed)
    reference = models.load_model(base)
    experts = reference.config.num_local_experts
    model = peft.get_peft_model(reference, peft.LoraConfig(r=r, lora_alpha=lora_alpha, target_modules=TARGETS[kind],
                                                           task_type="CAUSAL_LM"))
    keep_apart(model, experts)
    tensors = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor.normal_(0, spread)
    folder.mkdir()
    safetensors.torch.save_file({f"base_model.model.{n}": t for n, t in apart(kind, experts, tensors).items()},
                                folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": r, "lora_alpha": lora_alpha, "target_modules": TARGETS[kind]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
