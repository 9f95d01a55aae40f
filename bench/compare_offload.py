#!/usr/bin/env python3
"""Training with the optimizer's state on a disk beside DeepSpeed ZeRO-3 with NVMe offload, and what fio reaches on the same disk.

    bench/compare_offload.py --dir /ssd --python PYTHON_WITH_DEEPSPEED [--size 350m] [--batch 1] [--seq 256] [--repeats 3]

fio runs first and last, the two programs take turns in between; medians are printed. Needs fio with io_uring.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile

from compare import HERE


def fio(directory):
    """Bytes per second read and written at once past the page cache, in requests of 4 MiB."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        lines = subprocess.run(
            ["fio", "--name=mixed", f"--filename={file.name}", "--ioengine=io_uring", "--direct=1", "--rw=rw", "--bs=4m", "--iodepth=8",
             "--fixedbufs=1", "--size=2g", "--runtime=8", "--time_based", "--output-format=json"],
            capture_output=True, text=True, check=True).stdout
        job = json.loads(lines[lines.index("{"):])["jobs"][0]
        return job["read"]["bw_bytes"] + job["write"]["bw_bytes"]


def run(command, **more):
    out = subprocess.run(command, capture_output=True, text=True, check=True, **more).stdout
    return json.loads(out.strip().splitlines()[-1])


def median(runs, key):
    return statistics.median(r[key] for r in runs)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--dir", required=True)
    p.add_argument("--python", required=True)
    p.add_argument("--thimble", default=str(HERE.parent / "build/release/thimble"))
    p.add_argument("--size", default="350m")
    p.add_argument("--batch", default="1")
    p.add_argument("--seq", default="256")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--block", default=str(1 << 20), help="DeepSpeed's request, bytes")
    p.add_argument("--queue-depth", default="32", help="DeepSpeed's")
    p.add_argument("--io-threads", default="2", help="DeepSpeed's")
    a = p.parse_args()
    work = ["--size", a.size, "--batch", a.batch, "--seq", a.seq, "--steps", "5", "--warmup", "2"]
    ours = [a.thimble, "--quiet", "bench", "train", "--json", *work, "--offload", a.dir]
    theirs = [a.python, str(HERE / "peers/deepspeed_nvme.py"), *work, "--dir", a.dir, "--block", a.block, "--queue-depth", a.queue_depth,
              "--io-threads", a.io_threads]
    rates, runs = [fio(a.dir)], {"thimble, fp32": [], "thimble, split16": [], "deepspeed": []}
    for _ in range(a.repeats):
        runs["thimble, fp32"].append(run(ours + ["--master", "fp32"]))
        runs["thimble, split16"].append(run(ours + ["--master", "split16"]))
        runs["deepspeed"].append(run(theirs, env={**os.environ, "DS_ACCELERATOR": "cpu"}))
    rates.append(fio(a.dir))
    print("fio, mixed: " + ", ".join(f"{rate / 1e6:.0f} MB/s" for rate in rates) + " (before, after)")
    print("| | update s | read GB | written GB | MB/s of the update | of fio | step s | resident MB |\n|---|---|---|---|---|---|---|---|")
    rate = statistics.mean(rates)
    for name, of in runs.items():
        read, written, update = (median(of, key) for key in ("disk_read_bytes", "disk_written_bytes", "update_s"))
        moved = (read + written) / update
        print(f"| {name} | {update:.3f} | {read / 1e9:.2f} | {written / 1e9:.2f} | {moved / 1e6:.0f} | {moved / rate:.2f} | "
              f"{median(of, 'step_s'):.3f} | {median(of, 'peak_bytes') / 1e6:.0f} |")


if __name__ == "__main__":
    main()
