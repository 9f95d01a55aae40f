#!/usr/bin/env python3
"""What saving costs a training loop in PyTorch: torch.save and torch.distributed.checkpoint's asynchronous saves.

    torch_checkpoint.py --size 130m --batch 4 --seq 512 --steps 12 --every 4 --dir DIR

The model, the optimizer and the steps are those of torch_llama.py, in bf16 (autocast) where the processor multiplies that, else in f32. For each way one JSON line: seconds that a save kept the loop waiting (the
call, and the wait for the one before), seconds until it was complete, bytes, and the median seconds of steps beside which no save ran and of
those beside which one did. Every save is followed by fsync of its files, in its own time.
"""
import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from torch_llama import SHAPES, VOCAB, LlamaLoss


# Without such instructions torch multiplies bf16 many times slower than f32.
BF16_IS_FAST = "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def sync_files(path):
    paths = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    for p in paths:
        descriptor = os.open(p, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return sum(p.stat().st_size for p in paths)


class TorchSave:
    def __init__(self, directory):
        self.directory = directory

    def begin(self, state, number):
        path = self.directory / f"{number}.pt"
        torch.save(state, path)
        self.bytes = sync_files(path)
        self.completed = time.perf_counter()

    def is_done(self):
        return True

    def wait(self):
        pass


class AsyncSave:
    def __init__(self, directory, kind):
        self.directory, self.kind, self.future = directory, kind, None

    def begin(self, state, number):
        self.wait()
        self.path = self.directory / f"{number}"
        self.completed = None
        self.future = dcp.async_save(state, checkpoint_id=str(self.path), async_checkpointer_type=self.kind)
        self.future.add_done_callback(self.complete)

    def complete(self, _):
        self.bytes = sync_files(self.path)
        self.completed = time.perf_counter()

    def is_done(self):
        return self.completed is not None

    def wait(self):
        if self.future is not None:
            self.future.result()
            while self.completed is None:
                time.sleep(0.001)


def run(options, name, saver, model, optimizer):
    plain, beside, stalls, durable = [], [], [], []
    began = None
    for step in range(1, options.steps + 1):
        start = time.perf_counter()
        tokens = torch.randint(VOCAB, (options.batch, options.seq + 1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=BF16_IS_FAST):
            loss = model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
        if step > 2:
            (plain if began is None else beside).append(seconds)
        if began is not None and saver.is_done():
            durable.append(saver.completed - began)
            began = None
        if step > 2 and step % options.every == 0 and began is None:
            began = time.perf_counter()
            saver.begin({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, step)
            stalls.append(time.perf_counter() - began)
    if began is not None:
        saver.wait()
        durable.append(saver.completed - began)
    print(json.dumps({"way": name, "stall_s": statistics.median(stalls), "durable_s": statistics.median(durable), "bytes": saver.bytes,
                      "step_s": statistics.median(plain or beside), "step_beside_s": statistics.median(beside or plain)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SHAPES), default="130m")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--dir", type=Path, required=True)
    options = parser.parse_args()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    store = dist.TCPStore("127.0.0.1", 0, 1, True)
    os.environ["MASTER_PORT"] = str(store.port)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    torch.manual_seed(0)
    model = LlamaLoss(SHAPES[options.size], options.seq, False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    directory = options.dir / "torch-checkpoints"
    for name, make in (("torch.save", TorchSave), ("dcp.async_save, thread", lambda d: AsyncSave(d, AsyncCheckpointerType.THREAD)),
                       ("dcp.async_save, process", lambda d: AsyncSave(d, AsyncCheckpointerType.PROCESS))):
        directory.mkdir(parents=True)
        try:
            run(options, name, make(directory), model, optimizer)
        finally:
            shutil.rmtree(directory)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
