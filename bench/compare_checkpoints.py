#!/usr/bin/env python3
"""What saving costs a training run: snapshots in memory and checkpoints from them, beside PyTorch's ways, and what fio writes on the disk.

    bench/compare_checkpoints.py --dir /ssd --python PYTHON_WITH_TORCH [--size 130m] [--batch 4] [--seq 512] [--steps 24]

A run without saves, one with a snapshot of every step and a checkpoint every tenth, and the peers, one after the other; fio first and last.
"""
import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from compare import HERE


def config(hidden, intermediate, heads, layers):
    return {"hidden_size": hidden, "intermediate_size": intermediate, "num_attention_heads": heads, "num_key_value_heads": heads,
            "num_hidden_layers": layers}


# The shapes of peers/torch_llama.py.
CONFIGS = {"20m": config(256, 688, 4, 4), "60m": config(512, 1376, 8, 8), "130m": config(768, 2048, 12, 12), "350m": config(1024, 2736, 16, 24)}


def fio(directory):
    """Bytes per second of writing one after the other past the page cache, in requests of 4 MiB."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        lines = subprocess.run(
            ["fio", "--name=write", f"--filename={file.name}", "--ioengine=io_uring", "--direct=1", "--rw=write", "--bs=4m", "--iodepth=8",
             "--size=2g", "--runtime=6", "--time_based", "--output-format=json"], capture_output=True, text=True, check=True).stdout
        return json.loads(lines[lines.index("{"):])["jobs"][0]["write"]["bw_bytes"]


def train(a, directory, name, memory_steps, save_steps):
    """Seconds of each step but the first two, what the run said of its snapshots, and the keeper's saves."""
    job = directory / "job.toml"
    shape = directory / "config.json"
    shape.write_text(json.dumps({"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": a.seq, **CONFIGS[a.size]}))
    text = directory / "text.txt"
    text.write_text(" ".join(str(i * 7919 % 100003) for i in range(60 * a.batch * a.seq)))
    job.write_text(f"""
[model]
config = "{shape}"
tokenizer = "byte"
[data]
seq_len = {a.seq}
cache_dir = "{directory}/cache"
[[data.train]]
path = "{text}"
[training]
max_steps = {a.steps}
global_batch_size = {a.batch}
micro_batch_size = {a.batch}
[optimizer]
lr = 1e-4
[logging]
logging_steps = 1
[checkpoint]
save_steps = {save_steps}
save_total_limit = 1
memory_steps = {memory_steps}
""")
    done = subprocess.run([a.thimble, "--quiet", "train", str(job), "--set", f"name={name}", "--set", f"output_dir={directory}"],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    run = directory / name
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [r["step_ms"] / 1e3 for r in records if r.get("event") == "step" and r["step"] > 2]
    log = (run / "logs/rank-0.log").read_text()
    waited = re.search(r"training waited ([0-9.]+) ms", log)
    copied = re.search(r"copying took ([0-9.]+) s", log)
    keeper = "".join(p.read_text() for p in (run / "logs").glob("keeper-*.log"))
    saves = [float(s) for s in re.findall(r"saved \S+ in ([0-9.]+) s", keeper)]
    size = sum(p.stat().st_size for p in (run / "checkpoints").glob("ckpt-*/data-0.h5"))
    return {"steps": steps, "waited_s": float(waited[1]) / 1e3 if waited else 0, "copied_s": float(copied[1]) if copied else 0,
            "saves": saves, "bytes": size}


def told(result):
    """The result, said at once: the whole takes long."""
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--dir", required=True)
    p.add_argument("--python", required=True)
    p.add_argument("--thimble", default=str(HERE.parent / "build/release/thimble"))
    p.add_argument("--size", default="130m")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--seq", type=int, default=512)
    p.add_argument("--steps", type=int, default=24)
    p.add_argument("--peer-steps", type=int, default=14)
    a = p.parse_args()
    rates = [fio(a.dir)]
    with tempfile.TemporaryDirectory(dir=a.dir) as made:
        directory = Path(made)
        plain = told(train(a, directory, "plain", 0, 1000))
        ours = told(train(a, directory, "snapshots", 1, 10))
        again = told(train(a, directory, "again", 0, 1000))
        peers = subprocess.run(
            [a.python, str(HERE / "peers/torch_checkpoint.py"), "--size", a.size, "--batch", str(a.batch), "--seq", str(a.seq), "--steps",
             str(a.peer_steps), "--dir", made], capture_output=True, text=True, check=True).stdout
    rates.append(fio(a.dir))
    base = statistics.median(plain["steps"] + again["steps"])
    step = statistics.median(ours["steps"])
    saved = statistics.median(ours["saves"])
    print("fio, writing: " + ", ".join(f"{rate / 1e9:.2f} GB/s" for rate in rates) + " (before, after)")
    print(f"state {ours['bytes'] / 1e9:.2f} GB; step {base:.3f} s without snapshots, {step:.3f} s with one of every step; "
          f"copying and checksums {ours['copied_s']:.3f} s for each\n")
    print("| | loop waits s | of a step | until durable s | GB/s |\n|---|---|---|---|---|")
    print(f"| thimble, snapshot of every step | {ours['waited_s']:.4f} | {100 * ours['waited_s'] / base:.2f} % | | |")
    print(f"| thimble, checkpoint from it | {ours['waited_s']:.4f} | {100 * ours['waited_s'] / base:.2f} % | {saved:.3f} | "
          f"{ours['bytes'] / saved / 1e9:.2f} |")
    for line in peers.splitlines():
        peer = json.loads(line)
        print(f"| {peer['way']} | {peer['stall_s']:.4f} | {100 * peer['stall_s'] / peer['step_s']:.2f} % | {peer['durable_s']:.3f} | "
              f"{peer['bytes'] / peer['durable_s'] / 1e9:.2f} |")


if __name__ == "__main__":
    main()
