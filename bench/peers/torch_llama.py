#!/usr/bin/env python3
"""The PyTorch peer of `thimble bench train`: the same Llama, the same work, one JSON line with the same keys.

    torch_llama.py --size 130m --batch 4 --seq 512 --dtype bf16 --steps 14 --warmup 8 [--threads N] [--compile] [--checkpoint]

Needs torch only. It trains on random tokens the way a careful user of PyTorch would: fp32 weights, bf16 autocast, fused attention, fused
RMSNorm and fused AdamW, gradients clipped at norm 1. --compile is torch.compile, --checkpoint recomputes every block in the backward pass.
The first `warmup` steps are not timed; step_s is the median of the others. model_tflops counts the matmuls of the weights (head
included, embedding look-up not) and the causal half of attention, forward and backward, never the recomputed forward. peak_bytes is the
process's largest resident size, interpreter and libraries included.
"""
import argparse
import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

VOCAB = 32000
NORM_EPS = 1e-6
ROPE_THETA = 10000.0


@dataclass(frozen=True)
class Shape:
    hidden: int
    intermediate: int
    heads: int
    layers: int

    @property
    def head_dim(self):
        return self.hidden // self.heads


SHAPES = {
    "20m": Shape(256, 688, 4, 4),
    "60m": Shape(512, 1376, 8, 8),
    "130m": Shape(768, 2048, 12, 12),
    "350m": Shape(1024, 2736, 16, 24),
    "1b": Shape(2048, 5461, 32, 24),
}


def rotation_tables(seq, head_dim):
    """cos and sin, [seq, head_dim]; the two halves of a head carry the same angles."""
    frequencies = ROPE_THETA ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.arange(seq, dtype=torch.float32)[:, None] * frequencies[None, :]
    return angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)


def apply_rotation(x_BHTD, cos_TD, sin_TD):
    first, second = x_BHTD.tensor_split(2, dim=-1)
    return (x_BHTD * cos_TD + torch.cat([second.neg(), first], dim=-1) * sin_TD).to(x_BHTD.dtype)


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), NORM_EPS)


class Attention(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.head_dim = shape.head_dim
        self.query = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.key = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.value = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.output = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def split_heads(self, x_BTC):
        return x_BTC.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, x_BTC, cos, sin):
        query = apply_rotation(self.split_heads(self.query(x_BTC)), cos, sin)
        key = apply_rotation(self.split_heads(self.key(x_BTC)), cos, sin)
        mixed = F.scaled_dot_product_attention(query, key, self.split_heads(self.value(x_BTC)), is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.gate = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.attention_norm, self.attention = Norm(shape.hidden), Attention(shape)
        self.feed_forward_norm, self.feed_forward = Norm(shape.hidden), FeedForward(shape)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.feed_forward(self.feed_forward_norm(x))


class LlamaLoss(nn.Module):
    """Token ids and targets in, mean cross-entropy out."""

    def __init__(self, shape, seq, recompute):
        super().__init__()
        self.recompute = recompute
        self.embedding = nn.Embedding(VOCAB, shape.hidden)
        self.layers = nn.ModuleList([Layer(shape) for _ in range(shape.layers)])
        self.norm = Norm(shape.hidden)
        self.head = nn.Linear(shape.hidden, VOCAB, bias=False)
        cos, sin = rotation_tables(seq, shape.head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(self.initialise)

    @staticmethod
    def initialise(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, ids, targets):
        x = self.embedding(ids)
        for layer in self.layers:
            if self.recompute:
                x = checkpoint(layer, x, self.cos, self.sin, use_reentrant=False)
            else:
                x = layer(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def flops_per_step(shape, batch, seq):
    weights = shape.layers * (4 * shape.hidden**2 + 3 * shape.hidden * shape.intermediate) + VOCAB * shape.hidden
    attention_per_token = shape.layers * shape.hidden * seq  # scores and mixing over the causal half, one multiply-add each
    return 6 * batch * seq * (weights + attention_per_token)


def train(model, options):
    """Seconds and loss of every step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    compute_loss = torch.compile(model) if options.compile else model
    device_type = torch.device(options.device).type
    seconds, losses = [], []
    for _ in range(options.steps):
        tokens = torch.randint(VOCAB, (options.batch, options.seq + 1)).to(options.device)
        ids, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        start = time.perf_counter()
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=options.dtype == "bf16"):
            loss = compute_loss(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if device_type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds, losses


def peak_bytes(device):
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SHAPES), default="130m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=6, help="steps that are not timed")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpoint", action="store_true")
    options = parser.parse_args()
    if options.steps <= options.warmup:
        parser.error(f"--steps {options.steps} must be more than --warmup {options.warmup}")
    return options


def main():
    options = parse_options()
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = SHAPES[options.size]
    model = LlamaLoss(shape, options.seq, options.checkpoint).to(options.device)
    seconds, losses = train(model, options)
    step_s = statistics.median(seconds[options.warmup:])
    result = {
        "peer": f"torch {torch.__version__}",
        "size": options.size,
        "batch": options.batch,
        "seq": options.seq,
        "dtype": options.dtype,
        "compile": options.compile,
        "checkpoint": options.checkpoint,
        "threads": torch.get_num_threads(),
        "params": sum(p.numel() for p in model.parameters()),
        "step_s": round(step_s, 4),
        "tokens_per_s": round(options.batch * options.seq / step_s, 1),
        "model_tflops": round(flops_per_step(shape, options.batch, options.seq) / step_s / 1e12, 4),
        "peak_bytes": peak_bytes(options.device),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
