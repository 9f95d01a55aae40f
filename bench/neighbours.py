#!/usr/bin/env python3
"""Speed beside other busy processes on the same cores; prints a Markdown table.

    bench/neighbours.py [--thimble build/release/thimble] [--size 60m] [--rounds 5]

A busy process counts in a loop. On C cores, a program of C threads beside N of them has a fair share of C / (C + N) of its
quiet speed. "of its share" is speed / (quiet speed * fair share); medians of the rounds, in which quiet and busy runs
alternate. Training is `bench train`; evaluation and generation take a model of the same size, made by one training step,
and are timed as whole processes.
"""
import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORES = len(os.sched_getaffinity(0))


def run(command, cwd=None):
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=cwd)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


class Neighbours:
    """N processes that keep a core busy each."""

    def __init__(self, count):
        self.count = count

    def __enter__(self):
        self.processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(self.count)]
        time.sleep(0.5)

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()


def make_model(thimble, size, folder):
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps"]
    draw = random.Random(1)
    (folder / "text.txt").write_text(" ".join(draw.choice(words) for _ in range(60000)))
    run([thimble, "init", "--size", size, "--tokenizer", "byte", "--data", "text.txt"], folder)
    job = (folder / "job.toml").read_text()  # whose length init chooses by the text
    (folder / "job.toml").write_text(re.sub(r"^(num_epochs|max_steps|max_tokens) = .*$", "max_steps = 1", job, flags=re.M))
    run([thimble, "train", "job.toml", "--set", "name=m", "--set", "data.seq_len=256", "--set",
         "training.global_batch_size=1", "--set", "data.val_set_size=0"], folder)
    (folder / "part.txt").write_text((folder / "text.txt").read_text()[:100000])
    return str(folder / "runs/m/model")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--thimble", default=str(HERE.parent / "build/release/thimble"))
    p.add_argument("--size", default="60m")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--only", default="train,eval,generate", help="which of them")
    a = p.parse_args()
    thimble = os.path.abspath(a.thimble)
    with tempfile.TemporaryDirectory() as scratch:
        model = make_model(thimble, a.size, Path(scratch))

        def timed(work, command):
            start = time.monotonic()
            run([thimble, "--quiet", *command], scratch)
            return work / (time.monotonic() - start)

        tasks = {
            "train": lambda: json.loads(run([thimble, "--quiet", "bench", "train", "--json", "--size", a.size, "--batch", "2",
                                             "--seq", "256", "--steps", "8", "--warmup", "3"]))["tokens_per_s"],
            "eval": lambda: timed(100000, ["eval", "--model", model, "--text", "part.txt", "--context", "256"]),
            "generate": lambda: timed(400, ["generate", "--model", model, "--prompt", "the quick", "--max-new-tokens", "400"]),
        }
        cpu = next(l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name"))
        print(f"{cpu}, {CORES} cores, {a.size}\n\n| | neighbours | tokens/s | of quiet | fair share | of its share |\n"
              "|---|---|---|---|---|---|", flush=True)
        for name in a.only.split(","):
            speeds = {0: [], 1: [], 2: []}
            for _ in range(a.rounds):
                for count in speeds:
                    with Neighbours(count):
                        speeds[count].append(tasks[name]())
            quiet = statistics.median(speeds[0])
            for count in speeds:
                speed, share = statistics.median(speeds[count]), CORES / (CORES + count)
                print(f"| {name} | {count} | {speed:.1f} | {speed / quiet:.2f} | {share:.2f} | {speed / quiet / share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
