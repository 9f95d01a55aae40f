#!/usr/bin/env python3
"""Thimble's ZeRO stages beside PyTorch's DDP and FSDP2 on the same steps and the same cores; prints a Markdown table.

    bench/compare_ranks.py [--thimble build/release/thimble] [--python python3] [--ranks 2] [--size 60m] [--batch 4]

--python is an interpreter that has torch. One process with all cores first, then `--ranks` processes that share them. hidden is the
share of the time of communication during which the rank computed.
"""
import argparse
import os
import sys
from pathlib import Path

from compare import HERE, measure


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--thimble", default=str(HERE.parent / "build/release/thimble"))
    p.add_argument("--python", default="python3")
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--size", default="60m")
    p.add_argument("--batch", default="4")
    p.add_argument("--seq", default="512")
    p.add_argument("--steps", default="12")
    p.add_argument("--warmup", default="4")
    a = p.parse_args()
    if os.geteuid() == 0:
        os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    work = ["--size", a.size, "--batch", a.batch, "--seq", a.seq, "--steps", a.steps, "--warmup", a.warmup]
    ours = [a.thimble, "--quiet", "bench", "train", "--json", *work]
    mpirun = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(a.ranks)]
    threads = str(max(1, os.cpu_count() // a.ranks))
    peer = [a.python, str(HERE / "peers/torch_ranks.py"), "--ranks", str(a.ranks), "--threads", threads, *work]
    runs = [("thimble, 1 process", ours)]
    for stage, mode in ((0, "ddp"), (1, None), (2, None), (3, "fsdp")):
        runs.append((f"thimble, {a.ranks} ranks, ZeRO {stage}", [*mpirun, *ours, "--zero-stage", str(stage)]))
        if mode:
            runs.append((f"torch {mode}, {a.ranks} ranks", [*peer, "--mode", mode]))
    print("| run | tokens/s | of one process | resident GB a rank | sent MB a rank and step | hidden |\n|---|---|---|---|---|---|", flush=True)
    alone = None
    for name, command in runs:
        r = measure(command)
        alone = alone or r["tokens_per_s"]
        sent = f"{r['sent_bytes'] / 1e6:.0f}" if "sent_bytes" in r else ""
        hidden = f"{r['comm_hidden']:.2f}" if r.get("ranks", 1) > 1 and "comm_hidden" in r else ""
        print(f"| {name} | {r['tokens_per_s']:.0f} | {r['tokens_per_s'] / alone:.2f} | {r['peak_bytes'] / 1e9:.2f} | {sent} | {hidden} |",
              flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
