#!/usr/bin/env python3
"""Step time and memory of the optimizers on the same steps; prints a Markdown table.

    bench/compare_optimizers.py [--thimble build/release/thimble] [--size 130m] [--batch 4] [--seq 512]

Each optimizer runs with an f32 master and, in the last columns, as small as it gets: updated within the backward pass, bf16 weights
with stochastic rounding, no master. State is what `thimble plan` counts under optimizer.
"""
import argparse
import json
import subprocess

from compare import HERE, measure


def optimizers(thimble):
    """What `thimble optimizers --json` says of each, by name."""
    lines = subprocess.run([thimble, "optimizers", "--json"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--thimble", default=str(HERE.parent / "build/release/thimble"))
    p.add_argument("--size", default="130m")
    p.add_argument("--batch", default="4")
    p.add_argument("--seq", default="512")
    p.add_argument("--steps", default="10")
    p.add_argument("--warmup", default="5")
    p.add_argument("--rank", default="192")
    p.add_argument("--only", default="")
    a = p.parse_args()
    work = ["--size", a.size, "--batch", a.batch, "--seq", a.seq, "--steps", a.steps, "--warmup", a.warmup]
    base = [a.thimble, "--quiet", "bench", "train", "--json", *work]
    known = optimizers(a.thimble)
    # 8-bit weights are another model's memory.
    names = a.only.split(",") if a.only else [name for name, entry in known.items() if not entry["int8_weights"]]
    print("| optimizer | step s | of AdamW | optimizer state MB | peak MB | fused, no master: step s | peak MB |\n|---|---|---|---|---|---|---|")
    adamw = None
    for name in names:
        more = ["--optimizer", name] + (["--rank", a.rank] if "rank" in known[name]["keys"] else [])
        plain = measure(base + more)
        small = measure(base + more + ["--fused", "--master", "none"])
        adamw = adamw or plain["step_s"]
        state = plain["state_bytes"] / 1e6
        print(f"| {name} | {plain['step_s']:.3f} | {plain['step_s'] / adamw:.2f} | {state:.0f} | {plain['measured_peak_bytes'] / 1e6:.0f} | "
              f"{small['step_s']:.3f} | {small['measured_peak_bytes'] / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
