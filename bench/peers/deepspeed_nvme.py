#!/usr/bin/env python3
"""DeepSpeed ZeRO-3 with its optimizer on a disk, on the CPU: the peer of `thimble bench train --offload DIR`.

    DS_ACCELERATOR=cpu deepspeed_nvme.py --dir /ssd --size 350m --batch 1 --seq 256 --steps 5 --warmup 2

The model and its batches are those of torch_llama.py. Settings of the disk's queue are arguments, so that the best can be found with
`ds_nvme_tune`. Prints one JSON line: median seconds of forward, backward and update, bytes that the process read and wrote per step
(/proc/self/io), peak resident memory.
"""
import argparse
import json
import os
import resource
import statistics
import time

os.environ.setdefault("DS_ACCELERATOR", "cpu")
for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29577")):
    os.environ.setdefault(name, value)

import deepspeed
import torch

from torch_llama import SHAPES, VOCAB, LlamaLoss


def parse_options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--dir", required=True)
    p.add_argument("--device", choices=("nvme", "cpu"), default="nvme", help="cpu: the optimizer's state stays in memory")
    p.add_argument("--size", choices=list(SHAPES), default="350m")
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--seq", type=int, default=256)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--sub-group", type=int, default=25_000_000)
    p.add_argument("--buffers", type=int, default=16)
    p.add_argument("--block", type=int, default=1 << 20, help="bytes of a request")
    p.add_argument("--queue-depth", type=int, default=32)
    p.add_argument("--io-threads", type=int, default=2)
    p.add_argument("--threads", type=int, default=0)
    return p.parse_args()


def config(o):
    offload = {"device": o.device, "pin_memory": False}
    if o.device == "nvme":
        offload |= {"nvme_path": o.dir, "buffer_count": o.buffers, "pipeline_read": True, "pipeline_write": True}
    return {
        "train_micro_batch_size_per_gpu": o.batch,
        "bf16": {"enabled": True},
        "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.95], "weight_decay": 0.1}},
        "zero_optimization": {"stage": 3, "sub_group_size": o.sub_group, "offload_optimizer": offload},
        "aio": {"block_size": o.block, "queue_depth": o.queue_depth, "intra_op_parallelism": o.io_threads, "single_submit": False,
                "overlap_events": True},
    }


def moved():
    """Bytes that this process has read from and written to disks."""
    with open("/proc/self/io", encoding="ascii") as file:
        fields = dict(line.split(": ") for line in file.read().splitlines())
    return int(fields["read_bytes"]), int(fields["write_bytes"])


def main():
    o = parse_options()
    if o.threads:
        torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    model = LlamaLoss(SHAPES[o.size], o.seq, recompute=False)
    count = sum(p.numel() for p in model.parameters())
    engine, _, _, _ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config(o))
    times, losses, before = [], [], (0, 0)
    for step in range(o.steps):
        if step == o.warmup:
            before = moved()
        tokens = torch.randint(VOCAB, (o.batch, o.seq + 1))
        marks = [time.perf_counter()]
        with torch.autocast("cpu", dtype=torch.bfloat16):  # the norms compute in f32
            loss = engine(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        marks.append(time.perf_counter())
        engine.backward(loss)
        marks.append(time.perf_counter())
        engine.step()
        marks.append(time.perf_counter())
        losses.append(loss.item())
        if step >= o.warmup:
            times.append([b - a for a, b in zip(marks, marks[1:])])
    after = moved()
    counted = o.steps - o.warmup
    forward, backward, update = (statistics.median(t) for t in zip(*times))
    print(json.dumps({
        "peer": f"deepspeed {deepspeed.__version__}, torch {torch.__version__}", "size": o.size, "params": count, "device": o.device,
        "forward_s": forward, "backward_s": backward, "update_s": update, "step_s": statistics.median(map(sum, times)),
        "disk_read_bytes": (after[0] - before[0]) / counted, "disk_written_bytes": (after[1] - before[1]) / counted,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "first_loss": losses[0], "last_loss": losses[-1]}))


if __name__ == "__main__":
    main()
