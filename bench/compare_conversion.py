#!/usr/bin/env python3
"""A ZeRO checkpoint made universal: `thimble convert --to ucp` beside DeepSpeed's ds_to_universal, seconds and peak memory.

    bench/compare_conversion.py --dir /ssd --python PYTHON_WITH_DEEPSPEED [--size 350m] [--ranks 2] [--stage 1] [--repeats 3]

In turn; before each the files are dropped from the page cache, and a run ends when what it wrote is on the disk. With
--random the source is not of a training run: random values of the same shapes, which `thimble convert --to zero` cut for the
ranks. The last lines say what the disk does alone: a copy of the source's bytes by cp.
"""
import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from compare import HERE


def drop(directory):
    """Forgets the cached pages of all files."""
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def measure(command, out):
    """Seconds and the peak memory of the process and all of its children, in bytes, page cache not counted."""
    shutil.rmtree(out, ignore_errors=True)
    begin = time.perf_counter()
    said = tempfile.TemporaryFile(mode="w+")
    process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(0.02)
    if process.returncode != 0:
        said.seek(0)
        raise SystemExit(said.read())
    drop(out)
    return time.perf_counter() - begin, peak


def resident(session):
    """Anonymous resident memory of all processes of a session."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session:
                line = next(x for x in (stat.parent / "status").read_text().splitlines() if x.startswith("RssAnon"))
                total += int(line.split()[1]) * 1024
        except (OSError, StopIteration):
            continue
    return total


def make_source(a, source):
    """The ZeRO checkpoint that all convert; returns the folder with its files."""
    peer = [a.python, str(HERE / "peers/deepspeed_zero.py"), "--size", a.size, "--ranks", str(a.ranks), "--stage", str(a.stage)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    if not a.random:
        run(peer + ["--dir", str(source)], environment)
    else:
        values = source.with_name("random")
        run(peer + ["--dir", str(values), "--random"], environment)
        run([a.thimble, "--quiet", "convert", str(values), str(source), "--to", "zero", "--dtype", "bf16", "--ranks", str(a.ranks),
             "--stage", str(a.stage)], environment)
        shutil.rmtree(values)
    return source / (source / "latest").read_text()


def run(command, environment):
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--dir", required=True)
    p.add_argument("--python", required=True)
    p.add_argument("--thimble", default=str(HERE.parent / "build/release/thimble"))
    p.add_argument("--size", default="350m")
    p.add_argument("--ranks", type=int, default=2)
    p.add_argument("--stage", type=int, default=1)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--memory", default="512MiB")
    p.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="processes of ds_to_universal")
    p.add_argument("--random", action="store_true")
    a = p.parse_args()
    with tempfile.TemporaryDirectory(dir=a.dir) as made:
        source = Path(made) / "zero"
        tag = make_source(a, source)
        size = sum(x.stat().st_size for x in tag.iterdir())
        ways = {"thimble convert": ([a.thimble, "--quiet", "convert", str(source), made + "/ours", "--to", "ucp", "--memory", a.memory],
                                    Path(made) / "ours")}
        os.environ["DS_ACCELERATOR"] = "cpu"
        for workers in a.workers:
            ways[f"ds_to_universal, {workers} workers"] = (
                [a.python, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state", "--input_folder", str(tag),
                 "--output_folder", made + f"/theirs{workers}", "--num_extract_workers", str(workers), "--num_merge_workers", str(workers)],
                Path(made) / f"theirs{workers}")
        ways["cp of the source"] = (["cp", "-r", str(tag), made + "/copy"], Path(made) / "copy")
        seconds, peaks = {name: [] for name in ways}, {name: [] for name in ways}
        for _ in range(a.repeats):
            for name, (command, out) in ways.items():
                drop(source)
                took, peak = measure(command, out)
                seconds[name].append(took)
                peaks[name].append(peak)
                shutil.rmtree(out)
    print(f"{a.size}, ZeRO-{a.stage} of {a.ranks} ranks, {size / 1e9:.2f} GB\n")
    print("| | seconds | each | GB/s of the source | peak GB |\n|---|---|---|---|---|")
    for name in ways:
        median = statistics.median(seconds[name])
        print(f"| {name} | {median:.2f} | {', '.join(f'{s:.1f}' for s in seconds[name])} | {size / median / 1e9:.2f} | "
              f"{max(peaks[name]) / 1e9:.2f} |")


if __name__ == "__main__":
    main()
