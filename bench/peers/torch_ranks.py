#!/usr/bin/env python3
"""The PyTorch peer of `thimble bench train` under mpirun: the model of torch_llama.py on several processes over gloo.

    torch_ranks.py --mode ddp|fsdp --ranks 2 --size 60m --batch 4 --seq 512 --dtype bf16 --steps 10 --warmup 4

--batch counts the rows of all ranks. ddp replicates the model and averages gradients; fsdp is fully_shard (FSDP2) of every
layer and of the whole, with bf16 weights gathered and fp32 reductions in bf16 mode. One JSON line, from rank 0.
"""
import argparse
import json
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import torch_llama


def make_model(options):
    torch.manual_seed(0)
    model = torch_llama.LlamaLoss(torch_llama.SHAPES[options.size], options.seq, False)
    if options.mode == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) \
        if options.dtype == "bf16" else MixedPrecisionPolicy()
    for layer in model.layers:
        fully_shard(layer, mp_policy=policy)
    return fully_shard(model, mp_policy=policy)


def run_rank(rank, options):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port), RANK=str(rank), WORLD_SIZE=str(options.ranks))
    torch.set_num_threads(options.threads)
    dist.init_process_group("gloo")
    model = make_model(options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=options.mode == "ddp")
    rows, seconds, loss = options.batch // options.ranks, [], None
    torch.manual_seed(1 + rank)
    for _ in range(options.steps):
        tokens = torch.randint(torch_llama.VOCAB, (rows, options.seq + 1))
        dist.barrier()
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.dtype == "bf16"):
            loss = model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        step_s = statistics.median(seconds[options.warmup:])
        print(json.dumps({"peer": f"torch {torch.__version__} {options.mode}", "size": options.size, "batch": options.batch,
                          "seq": options.seq, "dtype": options.dtype, "ranks": options.ranks, "threads": options.threads,
                          "step_s": round(step_s, 4), "tokens_per_s": round(options.batch * options.seq / step_s, 1),
                          "peak_bytes": torch_llama.peak_bytes("cpu"), "last_loss": float(loss.detach())}), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--size", choices=list(torch_llama.SHAPES), default="60m")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--port", type=int, default=29511)
    options = parser.parse_args()
    if options.batch % options.ranks:
        parser.error(f"--batch {options.batch} must be a multiple of --ranks {options.ranks}")
    mp.spawn(run_rank, args=(options,), nprocs=options.ranks)


if __name__ == "__main__":
    main()
