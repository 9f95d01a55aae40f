#!/usr/bin/env python3
"""Thimble and PyTorch on the same training steps, one after the other in the same run; prints a Markdown table.

    bench/compare.py [--thimble build/release/thimble] [--python python3] [--size 130m] [--batch 4] [--seq 512]

--python is an interpreter that has torch. Each command is run once, alternating, on all cores; speed is the median step
after warm-up, memory the resident high-water mark of the process.
"""
import argparse
import json
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent


def measure(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--thimble", default=str(HERE.parent / "build/release/thimble"))
    p.add_argument("--python", default="python3")
    p.add_argument("--size", default="130m")
    p.add_argument("--batch", default="4")
    p.add_argument("--seq", default="512")
    p.add_argument("--steps", default="14")
    p.add_argument("--warmup", default="8")
    a = p.parse_args()
    common = ["--size", a.size, "--batch", a.batch, "--seq", a.seq, "--steps", a.steps, "--warmup", a.warmup,
              "--threads", str(os.cpu_count())]
    peer = [a.python, str(HERE / "peers/torch_llama.py"), *common]
    ours = [a.thimble, "--quiet", "bench", "train", "--json", *common]
    print("| run | tokens/s | step s | resident GB | sol |\n|---|---|---|---|---|", flush=True)
    for dtype in ("bf16", "f32"):
        for name, command in ((f"torch {dtype} eager", [*peer, "--dtype", dtype]),
                              (f"thimble {dtype} none", [*ours, "--dtype", dtype]),
                              (f"torch {dtype} --compile", [*peer, "--dtype", dtype, "--compile"]),
                              (f"thimble {dtype} selective", [*ours, "--dtype", dtype, "--recompute", "selective"]),
                              (f"torch {dtype} --checkpoint", [*peer, "--dtype", dtype, "--checkpoint"]),
                              (f"thimble {dtype} full", [*ours, "--dtype", dtype, "--recompute", "full"])):
            r = measure(command)
            sol = f"{r['sol']:.2f}" if "sol" in r else ""
            print(f"| {name} | {r['tokens_per_s']:.0f} | {r['step_s']:.3f} | {r['peak_bytes'] / 1e9:.2f} | {sol} |", flush=True)


if __name__ == "__main__":
    main()
