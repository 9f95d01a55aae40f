#!/usr/bin/env python3
"""The PyTorch peer of `thimble bench gemm`: the rates torch.mm reaches on the three matmuls of a linear layer, best of many calls.

    torch_mm.py [--threads N] [--dtype bf16 f32] [--seconds S] [M,N,K ...]

A linear layer has input x [M, K], weight W [N, K], output gradient dy [M, N]. Per shape and dtype three JSON lines:
forward x W^T, grad_input dy W, grad_weight dy^T x, with the seconds of the fastest call and its GFLOP/s (2 M N K operations).
Without shapes: the 130M model at 2048 tokens, and its head also in a chunk of 512 tokens.
"""
import argparse
import json
import time

import torch

DEFAULT_SHAPES = ["2048,768,768", "2048,2048,768", "2048,768,2048", "2048,32000,768", "512,32000,768"]
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def parse_shape(text):
    parts = text.split(",")
    if len(parts) != 3 or not all(p.isdigit() and int(p) > 0 for p in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not M,N,K of positive numbers")
    return tuple(int(p) for p in parts)


def best_seconds(matmul, budget_s):
    """Fastest of at least three calls, after two that are not timed, for about budget_s seconds."""
    matmul()
    matmul()
    best, calls, deadline = float("inf"), 0, time.perf_counter() + budget_s
    while calls < 3 or time.perf_counter() < deadline:
        start = time.perf_counter()
        matmul()
        best = min(best, time.perf_counter() - start)
        calls += 1
    return best


def measure(shape, dtype_name, budget_s):
    m, n, k = shape
    dtype = DTYPES[dtype_name]
    x, weight, dy = (torch.randn(size).to(dtype) for size in ((m, k), (n, k), (m, n)))
    matmuls = {
        "forward": lambda out=torch.empty(m, n, dtype=dtype): torch.mm(x, weight.t(), out=out),
        "grad_input": lambda out=torch.empty(m, k, dtype=dtype): torch.mm(dy, weight, out=out),
        "grad_weight": lambda out=torch.empty(n, k, dtype=dtype): torch.mm(dy.t(), x, out=out),
    }
    for op, matmul in matmuls.items():
        seconds = best_seconds(matmul, budget_s)
        print(json.dumps({
            "peer": f"torch {torch.__version__}", "op": op, "m": m, "n": n, "k": k, "dtype": dtype_name,
            "threads": torch.get_num_threads(), "seconds": round(seconds, 7),
            "gflops": round(2 * m * n * k / seconds / 1e9, 1)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", type=parse_shape, metavar="M,N,K")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--seconds", type=float, default=1.0, help="time to spend on each matmul")
    options = parser.parse_args()
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for dtype_name in options.dtype:
        for shape in options.shapes or map(parse_shape, DEFAULT_SHAPES):
            measure(shape, dtype_name, options.seconds)


if __name__ == "__main__":
    main()
