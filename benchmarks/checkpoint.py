"""Weight statistics of a checkpoint: memory and time for one shaped like an 8 B Llama, read from disk.

Writes random weights in bfloat16, a few at a time, then runs the job in a fresh process, first with the files dropped
from the system's cache, then once more, and watches the process's memory. Anonymous memory is what it takes for
itself, PyTorch included; pages of mapped files can be taken back at any time.

    make benchmark NAME=checkpoint ARGS="--blocks 4"
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

CHUNK = 2**22
"""Values written at once."""
SAMPLES = 0.02
"""Seconds between two looks at the process's memory."""

FRESH = """
import sys
from types import SimpleNamespace
import torch
from quant_core.evaluation.weights import weights
from quant_core.schema import ModelRef, WeightsRequest
torch.set_num_threads(int(sys.argv[2]))
context = SimpleNamespace(progress=lambda *_: None, check_cancelled=lambda: None)
found = weights(context, WeightsRequest(ModelRef(sys.argv[1])))
print(len(found.units), len(found.unread), found.bytes, found.seconds)
"""


def main() -> None:
    """Write a checkpoint, read it, say what that took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint there")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=options.folder))
    try:
        begun = time.perf_counter()
        write(folder, options.blocks)
        files = sorted(folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        print(f"{size / 1e9:.2f} GB in {len(files)} files, written in {time.perf_counter() - begun:.0f} s")
        for label in ("from disk", "again"):
            if label == "from disk":
                drop(files)
            units, unread, read, seconds, anonymous, mapped = measure(folder, options.threads)
            print(
                f"{label}: {units} weights ({unread} unread), {seconds:.1f} s, {read / seconds / 1e9:.2f} GB/s, "
                f"peak anonymous memory {anonymous / 1e6:.0f} MB, mapped files {mapped / 1e9:.2f} GB"
            )
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder)


def write(folder: Path, blocks: int) -> None:
    """A Llama of 8 B parameters (with 32 ``blocks``), a file a block, one for what is outside."""
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=blocks,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    files: dict[str, dict[str, list[int]]] = {}
    for name, parameter in model.named_parameters():
        block = name.split(".")[2] if ".layers." in name else "outside"
        files.setdefault(f"model-{block}.safetensors", {})[name] = list(parameter.shape)
    noise = torch.Generator().manual_seed(0)
    for file, shapes in files.items():
        write_file(folder / file, shapes, noise)
    places = {name: file for file, shapes in files.items() for name in shapes}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def write_file(file: Path, shapes: dict[str, list[int]], noise: torch.Generator) -> None:
    """Normal values with a standard deviation of 0.02, a chunk at a time, in safetensors' layout."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for left in range(end // 2, 0, -CHUNK):
            values = torch.randn(min(left, CHUNK), generator=noise).mul_(0.02).bfloat16()
            stream.write(values.view(torch.int16).numpy().data)
        stream.flush()
        os.fsync(stream.fileno())


def drop(files: list[Path]) -> None:
    """Have the system forget what it cached of ``files``."""
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(folder: Path, threads: int) -> tuple[int, int, int, float, int, int]:
    """Weights read and unread, bytes, seconds, and the peaks in bytes of anonymous and of mapped memory."""
    root = Path(__file__).resolve().parents[1]
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FRESH, str(folder), str(threads)],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    )
    peaks = {"RssAnon": 0, "RssFile": 0}
    status = Path(f"/proc/{child.pid}/status")
    while child.poll() is None:
        for line in status.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], int(value.split()[0]) * 1024)
        time.sleep(SAMPLES)
    out, _ = child.communicate()
    if child.returncode:
        raise SystemExit(child.returncode)
    units, unread, size, seconds = out.split()[-4:]
    return int(units), int(unread), int(size), float(seconds), peaks["RssAnon"], peaks["RssFile"]


if __name__ == "__main__":
    main()
