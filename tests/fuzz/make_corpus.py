#!/usr/bin/env python3
"""Makes tests/fuzz/corpus: small valid and nearly valid files, one folder for each libFuzzer program.

The tokenizer seeds are made from tests/fixtures/tokenizers, those of checkpoints from tests/fixtures/checkpoints by the
release build of thimble. Run again when a program's input changes.

    tests/fuzz/make_corpus.py [--out tests/fuzz/corpus]
"""
import argparse
import json
import struct
import subprocess
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def safetensors():
    def seed(header, data_bytes):
        return bytes([data_bytes]) + json.dumps(header, separators=(",", ":")).encode()

    yield "empty", seed({}, 0)
    yield "two", seed({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
                       "b.weight": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]}}, 26)
    kinds = {"F16": 2, "F64": 8, "I64": 8, "BOOL": 1, "F8_E4M3": 1, "U8": 1, "I32": 4}
    header, at = {}, 0
    for kind, size in kinds.items():
        header[kind] = {"dtype": kind, "shape": [1, 2], "data_offsets": [at, at + 2 * size]}
        at += 2 * size
    yield "kinds", seed(header, at)
    yield "zero", seed({"z": {"dtype": "F32", "shape": [0, 7], "data_offsets": [0, 0]}}, 0) + b"   "
    yield "overlap", seed({n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in "ab"}, 4)
    yield "huge", seed({"h": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 4]}}, 4)


def job():
    for example in sorted((HERE / "../../examples").glob("*.toml")):
        yield example.stem, example.read_bytes()
    yield "sizes", b"""[model]
path = "m"
dtype = "fp32"
[data]
seq_len = 128
val_set_size = 0.1
[[data.train]]
path = "a.jsonl"
weight = 2.5
[[data.train]]
path = "b.txt"
[training]
num_epochs = 1.5
global_batch_size = 32
micro_batch_size = 4

[optimizer]
lr = 1e-3
weight_decay = 0.1
[memory]
budget = "12GiB"
recompute = "selective"
"""
    yield "mistakes", b"[model]\npath = 3\n[optimiser]\nlr = 'fast'\n[training]\nmax_steps = -1\n[data]\nseq_len = 1e99\n"
    yield "inline", b'model = {path = "x"}\ntraining = {max_steps = 1_000, global_batch_size = 0x10}\noptimizer.lr = inf\n[[data.train]]\npath = """\na"""\n'


def piece(text, score, kind):
    body = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
    return b"\x0a" + bytes([len(body)]) + body


def sentencepiece(model_type):
    pieces = [piece(b"<unk>", 0, 2), piece(b"<s>", 0, 3), piece(b"</s>", 0, 3)]
    pieces += [piece(b"<0x%02X>" % i, 0, 6) for i in range(256)]
    pieces += [piece(t.encode(), -float(i), 1) for i, t in enumerate(["▁", "e", "l", "o", "H", "ll", "▁H", "ello", "▁Hello"])]
    trainer = b"\x18" + bytes([model_type]) + b"\x20" + b"\x8c\x02" + b"\x98\x02\x01"  # model_type, vocab_size, byte_fallback
    normaliser = b"\x0a\x08identity\x18\x01\x20\x00\x28\x01"
    return b"".join(pieces) + b"\x12" + bytes([len(trainer)]) + trainer + b"\x1a" + bytes([len(normaliser)]) + normaliser


def tokenizer():
    folder = HERE / "../fixtures/tokenizers"
    seen = 0
    for case in json.loads((folder / "cases.json").read_text()):
        if seen % 5 == 0:
            whole = json.loads((folder / f"{case['base']}.json").read_text())
            for section, value in case["patch"].items():
                if section == "model":
                    whole["model"].update(value)
                else:
                    whole[section] = value
            # Merges of the first tokens only: a seed is to be small.
            model = whole["model"]
            model["merges"] = model["merges"][:12]
            parts = {"".join(m) if isinstance(m, list) else m.replace(" ", "") for m in model["merges"]}
            short = [t for t in model["vocab"] if len(t) == 1 or t.startswith("<") or t in parts]
            model["vocab"] = {t: i for i, t in enumerate(sorted(short, key=model["vocab"].get))}
            for added in whole.get("added_tokens") or []:
                added["id"] = model["vocab"].setdefault(added["content"], len(model["vocab"]))
            name = "".join(c if c.isalnum() else "-" for c in case["name"])
            yield f"json-{name}", json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
        seen += 1
    yield "sentencepiece-bpe", sentencepiece(2)
    yield "sentencepiece-unigram", sentencepiece(1)
    pieces = [b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % i for i in range(256)] + [b" ", b"e", b"l", b"ll", b" H", b"H"]
    body = b"".join(struct.pack("<fi", -float(i), len(p)) + p for i, p in enumerate(pieces))
    yield "llama2c", struct.pack("<i", 6) + body


def tokens():
    def seed(documents, vocab, prompts, odd):
        width = 2 if vocab <= 65536 else 4
        ids = [t for d in documents for t in d]
        body = b"".join(t.to_bytes(width, "little") for t in ids)
        body += bytes(-(4096 + len(body)) % 8)
        index_offset = 4096 + len(body)
        begins = [0]
        for d in documents:
            begins.append(begins[-1] + len(d))
        index = struct.pack(f"<{len(begins)}Q", *begins)
        if prompts:
            index += struct.pack(f"<{len(documents)}I", *[len(d) // 2 for d in documents])
        index += bytes(4 * -(-len(ids) * width // 65536))
        header = struct.pack("<8sIIQqIIqqqqqqII", b"THTOKENS", 1, width, 5, vocab, int(prompts), 0, len(documents), len(ids), 99, 0, 0,
                             index_offset, 0, 0)
        return header + body + index + bytes([odd])

    yield "text", seed([[1, 2, 3], [4], [5, 6]], 300, False, 1)
    yield "prompts", seed([[1, 2, 3], [4], [5, 6]], 300, True, 1)
    yield "wide", seed([[70000, 1], [2]], 100000, False, 1)
    yield "nothing", seed([], 300, False, 1)
    yield "blocks", seed([[i % 7 for i in range(17000)]], 70000, False, 1)
    yield "checksums", seed([[1, 2, 3]], 300, False, 0)


def manifest():
    def lines(*values):
        return "".join(json.dumps(v, separators=(",", ":")) + "\n" for v in values).encode()

    head = {"format": "thimble-checkpoint", "major": 1, "minor": 0, "uuid": "4f1c", "step": 7, "block_bytes": 4194304}
    tensor = {"tensor": "model.norm.weight", "slot": "master", "offset": 2048, "bytes": 4096}
    yield "plain", lines(head, {"file": "data-0.h5", "bytes": 8000, "crc32c": "0123abcd"}, tensor)
    yield "none", lines(head, {"file": "data-0.h5", "bytes": 0, "crc32c": ""})
    yield "outside", lines(head, {"file": "data-0.h5", "bytes": 100, "crc32c": "0123abcd"}, tensor)
    yield "elsewhere", lines(head, {"file": "../data-0.h5", "bytes": 8000, "crc32c": "0123abcd"}, tensor)
    yield "newer", lines({**head, "major": 2}, {"file": "data-0.h5", "bytes": 0, "crc32c": ""})


def llama2c():
    yield "tied", struct.pack("<7i", 8, 12, 2, 2, 1, 11, 16)
    yield "own-head", struct.pack("<7i", 8, 6, 1, 4, 4, -11, 4)
    yield "limits", struct.pack("<7i", 1 << 20, 1 << 20, 4096, 1, 1, 1 << 20, 1 << 20)
    yield "not-a-divisor", struct.pack("<7i", 10, 12, 2, 3, 2, 11, 16)
    floats = 5 * 2 + (2 * 2 + 4 * 4 + 3 * 2 * 3) + 2 + 3 * 2
    yield "whole", struct.pack("<7i", 2, 3, 1, 1, 1, 5, 3) + struct.pack(f"<{floats}f", *range(floats))


def checkpoints():
    return sorted((HERE / "../fixtures/checkpoints/universal/global_step3_universal/zero/model.norm.weight").glob("*.pt"))


def pickle():
    for path in checkpoints():
        with zipfile.ZipFile(path) as archive:
            yield path.stem, archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    yield "attack", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R."
    yield "loop", b"\x80\x02]q\x00h\x00a."
    yield "protocol4", b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01aK\x01u."


def torch():
    for path in checkpoints():
        yield path.stem, path.read_bytes()


def pickle_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))


def converted(*options):
    """The folder that `thimble convert` makes of a fixture."""
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "out"
        subprocess.run([HERE / "../../build/release/thimble", "--quiet", "convert", HERE / "../fixtures/checkpoints" / options[0], out,
                        *options[1:]], check=True)
        yield out


def zero():
    for stage in "123":
        for out in converted("zero1", "--to", "zero", "--stage", stage):
            model = pickle_of(next(out.glob("*/*_model_states.pt")))
            yield f"stage{stage}", len(model).to_bytes(2, "little") + model + pickle_of(next(out.glob("*/*_optim_states.pt")))


def megatron():
    for out in converted("megatron/expected", "--to", "megatron"):
        yield "one-rank", pickle_of(next(out.glob("*/mp_rank_00/*.pt")))


def dcp():
    yield "fsdp2", (HERE / "../fixtures/checkpoints/fsdp2/.metadata").read_bytes()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", type=Path, default=HERE / "corpus")
    out = p.parse_args().out
    for make in (safetensors, job, tokenizer, tokens, manifest, llama2c, pickle, torch, zero, megatron, dcp):
        folder = out / make.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in make():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
