#!/usr/bin/env python3
"""A checkpoint of DeepSpeed's ZeRO on CPU ranks joined by gloo, after one step: what conversions are measured on.

    DS_ACCELERATOR=cpu deepspeed_zero.py --size 350m --ranks 2 --stage 1 --dir DIR

The model is that of torch_llama.py, its weights in bf16 with f32 masters and moments. With --random nothing is trained: DIR
is a universal folder of normal random values, made a parameter at a time, for sizes whose training this machine cannot hold.
"""
import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from torch_llama import SHAPES, VOCAB, LlamaLoss, Norm


def rank_main(rank, o):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29587", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(o.ranks),
                      DS_ACCELERATOR="cpu")
    import deepspeed
    deepspeed.init_distributed(dist_backend="gloo")
    torch.manual_seed(1)
    torch.set_num_threads(1)
    model = LlamaLoss(SHAPES[o.size], 16, False).to(torch.bfloat16)
    for module in model.modules():
        if isinstance(module, Norm):  # it computes in f32, and there is no autocast here
            module.register_forward_hook(lambda norm, _, out: out.to(norm.weight.dtype))
    config = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": o.stage},
              "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "torch_adam": True}}, "zero_allow_untested_optimizer": True}
    engine, _, _, _ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    tokens = torch.randint(VOCAB, (1, 17))
    engine.backward(engine(tokens[:, :-1], tokens[:, 1:]))
    engine.step()
    engine.save_checkpoint(o.dir)
    dist.barrier()
    dist.destroy_process_group()


def random_universal(o):
    with torch.device("meta"):
        model = LlamaLoss(SHAPES[o.size], 16, False)
    tag = Path(o.dir) / "global_step1"
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        folder = tag / "zero" / name
        folder.mkdir(parents=True)
        for state in ("fp32", "exp_avg", "exp_avg_sq"):
            torch.save({"param": torch.randn(parameter.shape)}, folder / f"{state}.pt")
        torch.save(torch.tensor(1.0), folder / "step.pt")
    (Path(o.dir) / "latest_universal").write_text(tag.name)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--dir", required=True)
    p.add_argument("--size", choices=list(SHAPES), default="350m")
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--stage", type=int, choices=(1, 2, 3), default=1)
    p.add_argument("--random", action="store_true")
    o = p.parse_args()
    if o.random:
        return random_universal(o)
    mp.spawn(rank_main, args=(o,), nprocs=o.ranks)


if __name__ == "__main__":
    main()
