#!/usr/bin/env python3
"""Thimble and PyTorch on the same training steps, one after the other in the same run; prints a Markdown table.

    bench/compare.py [--thimble build/release/thimble] [--python python3] [--size 130m] [--batch 4] [--seq 512]
                     [--isa avx512_bf16] [--dtypes bf16,f32] [--rows eager,none,compile]

--python is an interpreter that has torch. Each command is run once, alternating, on all cores; speed is the median step
after warm-up, memory the resident high-water mark of the process.
"""
import argparse
import json
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent


# What limits both programs to the instructions of a lesser processor. PyTorch's f32 matmuls are MKL's.
LIMITS = {
    "": {},
    "avx512_bf16": {"THIMBLE_ISA": "avx512_bf16", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "avx2": {"THIMBLE_ISA": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2",
             "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "?"


def measure(command, isa):
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **LIMITS[isa]})
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
    p.add_argument("--isa", default="", choices=list(LIMITS), help="limit both to these instructions")
    p.add_argument("--dtypes", default="bf16,f32")
    p.add_argument("--rows", default="eager,none,compile,selective,checkpoint,full")
    a = p.parse_args()
    common = ["--size", a.size, "--batch", a.batch, "--seq", a.seq, "--steps", a.steps, "--warmup", a.warmup,
              "--threads", str(os.cpu_count())]
    peer = [a.python, str(HERE / "peers/torch_llama.py"), *common]
    ours = [a.thimble, "--quiet", "bench", "train", "--json", *common]
    print(f"{cpu_name()}, {os.cpu_count()} cores, {a.isa or 'all instructions'}, {a.size}, {a.batch} x {a.seq}\n")
    print("| run | tokens/s | step s | resident GB | sol |\n|---|---|---|---|---|", flush=True)
    for dtype in a.dtypes.split(","):
        runs = {"eager": (f"torch {dtype} eager", [*peer, "--dtype", dtype]),
                "none": (f"thimble {dtype} none", [*ours, "--dtype", dtype]),
                "compile": (f"torch {dtype} --compile", [*peer, "--dtype", dtype, "--compile"]),
                "selective": (f"thimble {dtype} selective", [*ours, "--dtype", dtype, "--recompute", "selective"]),
                "checkpoint": (f"torch {dtype} --checkpoint", [*peer, "--dtype", dtype, "--checkpoint"]),
                "full": (f"thimble {dtype} full", [*ours, "--dtype", dtype, "--recompute", "full"])}
        for row in a.rows.split(","):
            name, command = runs[row]
            r = measure(command, a.isa)
            sol = f"{r['sol']:.2f}" if "sol" in r else ""
            print(f"| {name} | {r['tokens_per_s']:.0f} | {r['step_s']:.3f} | {r['peak_bytes'] / 1e9:.2f} | {sol} |", flush=True)


if __name__ == "__main__":
    main()
