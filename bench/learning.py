#!/usr/bin/env python3
"""Validation loss of the optimizers on the same tokens: a Markdown table and a picture of the curves.

    bench/learning.py --text 'novels/*.txt' --out DIR [--plot docs/learning.svg] [--only adamw,apollo]

A Llama of 3.3M parameters reads 4M tokens (bytes) of the text. Every optimizer is run at three learning rates, then the best of them with a second
seed, by `thimble sweep`: the same command again runs what is missing. --plot needs matplotlib.
"""
import argparse
import glob
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent

# Learning rates and what else is set: the rank is a quarter of the hidden size, as in the publications.
RANK = "rank = 64"
SEQ = 256
OPTIMIZERS = {
    "adamw": (["5e-4", "1e-3", "2e-3"], ""),
    "apollo": (["3e-3", "1e-2", "3e-2"], RANK),
    "apollo_mini": (["3e-4", "1e-3", "3e-3"], ""),
    "galore": (["3e-3", "1e-2", "3e-2"], RANK),
    "scale": (["2e-4", "5e-4", "1e-3"], ""),
    "muon": (["1e-3", "2e-3", "4e-3"], ""),
    "frugal": (["5e-4", "1e-3", "2e-3"], ""),
    "adamw_8bit": (["5e-4", "1e-3", "2e-3"], ""),
}

MODEL = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8,
         "num_key_value_heads": 8, "vocab_size": 257, "max_position_embeddings": 256}

JOB = """seed = {seed}
[model]
config = "config.json"
tokenizer = "byte"
[data]
seq_len = {seq}
cache_dir = "cache"
[[data.train]]
path = "text/*.txt"
[[data.eval]]
path = "held_out.txt"
[training]
max_tokens = {tokens}
global_batch_size = {rows}
micro_batch_size = {rows}
[optimizer]
name = "{name}"
lr = 1e-3
{more}
weight_decay = 0.0
fallback = {{ name = "adamw", lr = 1e-3 }}
[lr_scheduler]
warmup_ratio = 0.1
[checkpoint]
save_steps = 100000
save_total_limit = 1
[eval]
eval_steps = {eval_steps}
[logging]
logging_steps = 16
tensorboard = false
"""


def prepare_text(a):
    """The end of every file is kept for validation, the same for every run."""
    held_out = []
    (a.out / "text").mkdir(exist_ok=True)
    paths = sorted(glob.glob(a.text))
    if not paths:
        sys.exit(f"--text {a.text}: no such file")
    for path in paths:
        text = pathlib.Path(path).read_bytes()
        (a.out / "text" / pathlib.Path(path).name).write_bytes(text[:-4096])
        held_out.append(text[-4096:])
    (a.out / "held_out.txt").write_bytes(b"\n".join(held_out))


def sweep(a, name, rates, more, seed):
    job = a.out / f"{name}-seed-{seed}.toml"
    eval_steps = max(1, a.tokens // a.rows // SEQ // 8)
    job.write_text(JOB.format(tokens=a.tokens, eval_steps=eval_steps, name=name, seed=seed, more=more, rows=a.rows, seq=SEQ))
    command = [a.thimble, "--quiet", "sweep", str(job), "--json", "--set", "optimizer.lr=" + ",".join(rates)]
    done = subprocess.run(command, cwd=a.out, stdout=subprocess.PIPE, text=True, check=True)
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    by_rate = {}
    for run in runs:
        rate = next(s.split("=")[1] for s in run["set"] if s.startswith("optimizer.lr="))
        by_rate[rate] = run
    return by_rate


def curve(a, run):
    """The validation losses of a run: tokens in millions, loss."""
    tokens, losses = [], []
    for line in (a.out / "runs" / run / "metrics.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event.get("event") == "eval" and event["step"] > 0:
            tokens.append(event["step"] * a.rows * SEQ / 1e6)
            losses.append(event["eval_loss"])
    return tokens, losses


def plot(a, best):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "thimble"
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, run in sorted(best.items(), key=lambda item: item[1]["eval_loss"]):
        axes.plot(*curve(a, run["run"]), label=f"{name} {run['eval_loss']:.3f}")
    axes.set_xlabel("tokens read, millions")
    axes.set_ylabel("validation loss, nats a byte")
    axes.set_ylim(top=2.3)
    axes.legend(title="at the end")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(a.plot, metadata={"Date": None})


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--thimble", default=str(HERE.parent / "build/release/thimble"))
    p.add_argument("--text", required=True, help="text files to read; a pattern of the job file")
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--tokens", type=int, default=1 << 22)
    p.add_argument("--rows", type=int, default=8, help=f"of {SEQ} tokens, of a step; methods without momentum need many small steps")
    p.add_argument("--only", default="")
    p.add_argument("--plot", type=pathlib.Path)
    a = p.parse_args()
    a.out = a.out.resolve()
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "config.json").write_text(json.dumps(MODEL))
    prepare_text(a)
    best, reference = {}, None
    print("| optimizer | learning rates: loss | best, seed 1 | seed 2 | mean | over AdamW |\n|---|---|---|---|---|---|")
    for name in a.only.split(",") if a.only else OPTIMIZERS:
        rates, more = OPTIMIZERS[name]
        runs = sweep(a, name, rates, more, 1)
        failed = [rate for rate, run in runs.items() if run["exit_code"] != 0]
        if failed:
            sys.exit(f"{name} ended with an error at learning rate {', '.join(failed)}; see the logs in {a.out / 'runs'}")
        rate = min(runs, key=lambda r: runs[r]["eval_loss"])
        best[name] = runs[rate]
        losses = [runs[rate]["eval_loss"], sweep(a, name, [rate], more, 2)[rate]["eval_loss"]]
        mean = sum(losses) / 2
        reference = mean if name == "adamw" else reference
        over = "" if reference is None else f"{mean - reference:+.3f}"
        each = ", ".join(f"{r}: {runs[r]['eval_loss']:.3f}" for r in rates)
        print(f"| `{name}` | {each} | {losses[0]:.3f} | {losses[1]:.3f} | {mean:.3f} | {over} |", flush=True)
    if a.plot:
        plot(a, best)


if __name__ == "__main__":
    main()
