"""Train the small language model that ships with QuantLens, from nothing but text.

The result is an ordinary Llama (RMSNorm, SwiGLU, rotary positions, grouped-query attention, tied embeddings) that
never heard of quantization, because the point of it is to be quantized afterwards. What happens, in order:

1. **Books.** A text file has one paragraph a line and a blank line between books (`.xz` is unpacked). Every 40th book
   of `--text` is held out, whole: paragraphs of one book share names and turns of phrase, so holding out paragraphs
   would flatter the model. Books of `--extra` only help the training.
2. **Tokenizer.** Byte-level BPE with GPT-2's pre-tokenizer rule, learned on the training books. `<|endoftext|>` opens
   every book and is the only special token.
3. **Batches.** The books are one long row of tokens on the device. A sample is a window at a random place, from the
   extra books with probability `--extra-share`, so no two passes cut the text alike.
4. **Training.** AdamW, on a GPU under bf16 autocast (the weights stay float32), for a time rather than a number of
   steps: the learning rate rises over the first hundredth of `--minutes` and falls linearly to zero at their end
   (Defazio et al., "Optimal Linear Decay Learning Rate Schedules and Further Refinements", arXiv:2310.07831). The
   books are read some twenty times over, so weight decay is well above the usual 0.1 (Kim et al., "Pre-training under
   infinite compute", arXiv:2509.14786).
5. **Choice.** Held-out perplexity is measured along the way, and the weights where it was lowest are kept.
6. **Folder.** bf16 safetensors in shards, tokenizer, configuration, and `training.json` with every setting and figure,
   written under a temporary name and renamed: the folder is whole or absent. The model card is then written by hand.

The model in `assets/demo-model/` came from this, on one NVIDIA H200:

    python tools/train_demo_model.py --text children.txt.xz --extra adventure.txt.xz

and its defaults from trials of 39 seconds each, at 1.85 million tokens a second with a batch of 32 and 2.0 million with
the larger ones. In so short a time steps count for more than tokens:

    batch  learning rate  weight decay  held-out perplexity
      128         3e-3          0.4            60.7
       64         5e-3          0.4            42.1
       64         3e-3          0.4            36.1
       64         1.5e-3        0.4            37.0
       32         1.5e-3        0.1            31.2
       32         8e-4          0.4            26.8
       32         1.5e-3        0.4            25.7   <- chosen

A run on the processor that only shows that all of it works:

    python tools/train_demo_model.py --text FILE --out /tmp/tiny --device cpu --minutes 0.2 --layers 2 --hidden 256 \
        --intermediate 256 --heads 4 --context 128 --batch 4 --vocabulary 1024

The clock decides how many steps fit, so a second run gives a model as good, not the same bits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import lzma
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    AttentionInterface,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

log = logging.getLogger("train_demo_model")

END_OF_TEXT = "<|endoftext|>"
HELD_OUT_EVERY = 40  # one whole book in so many
MEASUREMENTS = 24  # of held-out perplexity, evenly over the training time
SHARD_SIZE = "14MB"  # of tensors; with its header a file stays below 15 MB
IGNORED = -100  # the target that cross entropy leaves out
SAMPLE_TOKENS = 80
PROMPTS = (
    "Once upon a time",
    "The old king looked at the dragon and said",
    '"I have lost my hat," said the bear',
)

Number = TypeVar("Number", int, float, str)
LossFunction = Callable[[LlamaForCausalLM, Tensor, Tensor], Tensor]


def option(default: Number, about: str) -> Number:
    """A field of `Settings` that is an option of the command line too."""
    return dataclasses.field(default=default, metadata={"help": about})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything the command line decides. The defaults are those of the model that ships."""

    text: list[Path]
    extra: list[Path]
    out: Path
    minutes: float = option(8.0, "training time; tokenizing and compiling come on top")
    device: str = option("cuda" if torch.cuda.is_available() else "cpu", "as torch names it")
    seed: int = option(0, "of the first weights, the windows and the samples")
    vocabulary: int = option(8192, "tokens, at most")
    layers: int = option(8, "blocks")
    hidden: int = option(512, "features; GGUF's k-quants need a multiple of 256")
    intermediate: int = option(768, "features inside the SwiGLU; a multiple of 256 as well")
    heads: int = option(8, "query heads")
    kv_heads: int = option(2, "key-value heads")
    context: int = option(1024, "tokens of a window")
    batch: int = option(32, "windows of a step")
    extra_share: float = option(0.5, "share of the windows that come from --extra")
    learning_rate: float = option(1.5e-3, "its peak")
    weight_decay: float = option(0.4, "of the matrices; norms have none")
    temperature: float = option(0.8, "for generation_config.json and the samples")
    top_p: float = option(0.95, "for generation_config.json and the samples")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One point of the training curve; losses are nats a token."""

    minutes: float
    steps: int
    tokens: int
    training_loss: float
    held_out_loss: float
    held_out_perplexity: float


def parse_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Read `arguments`, or the command line; a folder that something else wrote is not overwritten."""
    parser = argparse.ArgumentParser(description="Train the demo model from text files.")
    parser.add_argument(
        "--text", type=Path, nargs="+", required=True, help="books, plain or .xz; some are held out"
    )
    parser.add_argument("--extra", type=Path, nargs="+", default=[], help="more books, for training alone")
    parser.add_argument("--out", type=Path, default=Path("assets/demo-model"), help="the folder to write")
    for field in dataclasses.fields(Settings)[3:]:
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=type(field.default),
            default=field.default,
            help=f"{field.metadata['help']} (default: %(default)s)",
        )
    settings = Settings(**vars(parser.parse_args(arguments)))
    if settings.out.exists() and not (settings.out / "training.json").exists():
        parser.error(
            f"--out {settings.out} exists and is no folder of this script; name another or remove it"
        )
    return settings


def read_books(paths: Sequence[Path]) -> list[str]:
    """The books of the files, in order."""
    raw = [
        lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes() for path in paths
    ]
    return [book.strip() for one in raw for book in one.decode().split("\n\n") if book.strip()]


def split_books(books: Sequence[str]) -> tuple[list[str], list[str]]:
    """Training and held-out books; of fewer than 40 the last is held out, and one alone cannot be split."""
    if len(books) < 2:
        raise SystemExit(f"--text holds {len(books)} book; 2 are needed, with a blank line between them")
    every = min(HELD_OUT_EVERY, len(books))
    return [book for i, book in enumerate(books) if (i + 1) % every], list(books[every - 1 :: every])


def train_tokenizer(books: Sequence[str], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `vocabulary` tokens, the 256 bytes and the end-of-text token among them."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(books, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=context,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def encode(books: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """All books as one row of token ids (int32), each opened by the end-of-text token."""
    encoded = tokenizer.backend_tokenizer.encode_batch_fast([END_OF_TEXT + book for book in books])
    empty = torch.empty(0, dtype=torch.int32)
    return torch.cat([empty, *(torch.tensor(one.ids, dtype=torch.int32) for one in encoded)])


def causal_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention without a mask tensor, which transformers builds when compiled and the flash kernel refuses.

    query (batch, heads, positions, features); key and value the same with fewer heads. Only for windows without
    padding, as in training; it computes what transformers' own functions compute there.
    """
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    return mixed.transpose(1, 2).contiguous(), None


def build_model(settings: Settings, vocabulary: int, end_of_text: int) -> LlamaForCausalLM:
    """A fresh float32 Llama; what writes into the residual stream starts 1/sqrt(2 layers) as large, as in GPT-2."""
    AttentionInterface.register("causal", causal_attention)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=settings.context,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        attn_implementation="causal",
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_((2 * settings.layers) ** -0.5)
    return model.to(settings.device)


def sum_of_losses(model: LlamaForCausalLM, inputs: Tensor, targets: Tensor) -> Tensor:
    """Summed cross entropy in nats, float32; inputs and targets (batch, positions) int64."""
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=inputs.is_cuda):
        logits: Tensor = model(input_ids=inputs, use_cache=False).logits
    return F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="sum", ignore_index=IGNORED
    )


def draw_windows(text: Tensor, extra: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """A batch of random windows as inputs and next-token targets, both (batch, context) int64."""
    offsets = torch.arange(settings.context + 1, device=text.device)
    place = torch.rand(settings.batch, 1, device=text.device, dtype=torch.float64)
    windows = text[(place * (len(text) - len(offsets))).long() + offsets]
    if len(extra):
        others = extra[(place * (len(extra) - len(offsets))).long() + offsets]
        windows = torch.where(torch.rand_like(place) < settings.extra_share, others, windows)
    return windows[:, :-1].long(), windows[:, 1:].long()


def cut_windows(row: Tensor, settings: Settings) -> list[tuple[Tensor, Tensor]]:
    """The row as batches of windows side by side, each token a target once; ignored targets fill the last batch."""
    padding = -(len(row) - 1) % (settings.batch * settings.context)
    shape = (-1, settings.batch, settings.context)
    inputs = F.pad(row[:-1].long(), (0, padding)).view(shape)
    targets = F.pad(row[1:].long(), (0, padding), value=IGNORED).view(shape)
    return list(zip(inputs, targets, strict=True))


@torch.no_grad()
def mean_loss(model: LlamaForCausalLM, loss: LossFunction, windows: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Mean cross entropy over all targets, in nats a token."""
    total = torch.stack([loss(model, inputs, targets) for inputs, targets in windows]).double().sum().item()
    return total / sum(int((targets != IGNORED).sum()) for _, targets in windows)


def train(
    model: LlamaForCausalLM, text: Tensor, extra: Tensor, held_out: Tensor, settings: Settings
) -> list[Measurement]:
    """Train in place for `settings.minutes`, leave the best weights in the model, and return the curve."""
    on_gpu = settings.device.startswith("cuda")
    loss: LossFunction = torch.compile(sum_of_losses, dynamic=False) if on_gpu else sum_of_losses
    windows = cut_windows(held_out, settings)
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        fused=on_gpu,
    )
    loss(model, *draw_windows(text, extra, settings)).backward()  # compiles, before the clock starts
    optimizer.zero_grad()
    log.info("before training: held-out loss %.3f", mean_loss(model, loss, windows))

    tokens_a_step = settings.batch * settings.context
    curve: list[Measurement] = []
    lowest, best = math.inf, dict[str, Tensor]()
    steps = measured_at = 0
    losses = torch.zeros((), device=settings.device)  # summed over the steps since measured_at
    start = time.perf_counter()
    while (progress := (time.perf_counter() - start) / (60 * settings.minutes)) < 1 or measured_at < steps:
        if progress >= 1 or (progress * MEASUREMENTS >= len(curve) + 1 and measured_at < steps):
            nats = mean_loss(model, loss, windows)
            curve.append(
                Measurement(
                    minutes=round((time.perf_counter() - start) / 60, 3),
                    steps=steps,
                    tokens=steps * tokens_a_step,
                    training_loss=round(losses.item() / (steps - measured_at), 4),
                    held_out_loss=round(nats, 4),
                    held_out_perplexity=round(math.exp(nats), 3),
                )
            )
            log.info("%s", curve[-1])
            if nats < lowest:
                lowest = nats
                best = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
            losses.zero_()
            measured_at = steps
            continue
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min(100 * progress, 1 - progress)
        step_loss = loss(model, *draw_windows(text, extra, settings)) / tokens_a_step
        step_loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses += step_loss.detach()
        steps += 1
    model.load_state_dict(best)
    return curve


def write_samples(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, settings: Settings
) -> list[str]:
    """One continuation of each prompt: the first that comes with the seed, not the best of several."""
    torch.manual_seed(settings.seed)
    inputs = [tokenizer(prompt, return_tensors="pt").to(settings.device) for prompt in PROMPTS]
    written = [model.generate(**one, max_new_tokens=SAMPLE_TOKENS)[0] for one in inputs]
    return [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in written]


def write_folder(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, record: dict[str, Any], out: Path
) -> None:
    """Write everything beside `out` and swap it in, so that a reader finds the old folder or the new."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        new = Path(temporary) / "new"
        model.save_pretrained(new, max_shard_size=SHARD_SIZE)
        tokenizer.save_pretrained(new)
        # transformers 5 writes a class name that 4 cannot load, and reads the name that both know
        settings_file = new / "tokenizer_config.json"
        settings_file.write_text(
            settings_file.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast")
        )
        (new / "training.json").write_text(json.dumps(record, indent=1) + "\n")
        for file in new.iterdir():
            file.chmod(0o644)
        if out.exists():
            out.rename(Path(temporary) / "old")
        new.rename(out)
    log.info("wrote %s, %.1f MB", out, sum(file.stat().st_size for file in out.iterdir()) / 1e6)


def main() -> None:
    """Books to folder, as the module's docstring tells it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    settings = parse_settings()
    torch.manual_seed(settings.seed)
    torch.set_float32_matmul_precision("high")

    books, held_out_books = split_books(read_books(settings.text))
    extra_books = read_books(settings.extra)
    tokenizer = train_tokenizer(books + extra_books, settings.vocabulary, settings.context)
    text, extra, held_out = (
        encode(part, tokenizer).to(settings.device) for part in (books, extra_books, held_out_books)
    )
    tokens = {"text": len(text), "extra": len(extra), "held_out": len(held_out)}
    log.info("vocabulary %d, tokens %s", len(tokenizer), tokens)
    if len(text) <= settings.context + 1 or 0 < len(extra) <= settings.context + 1:
        raise SystemExit(f"too little text for --context {settings.context}: {tokens} tokens")

    end_of_text = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    model = build_model(settings, len(tokenizer), end_of_text)
    log.info("%.2f million parameters", model.num_parameters() / 1e6)
    curve = train(model, text, extra, held_out, settings)

    model.bfloat16().eval().set_attn_implementation("sdpa")
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=settings.temperature,
        top_p=settings.top_p,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
    )
    nats = mean_loss(model, sum_of_losses, cut_windows(held_out, settings))
    held_out_bytes = sum(len(book.encode()) for book in held_out_books)
    record = {
        "settings": {name: getattr(settings, name) for name in list(vars(settings))[3:]},
        "files": {
            "text": [path.name for path in settings.text],
            "extra": [path.name for path in settings.extra],
        },
        "books": {"text": len(books), "extra": len(extra_books), "held_out": len(held_out_books)},
        "tokens": tokens,
        "held_out_bytes": held_out_bytes,
        "vocabulary": len(tokenizer),
        "parameters": model.num_parameters(),
        "tokens_seen": curve[-1].tokens,
        "tokens_a_second": round(curve[-1].tokens / (60 * curve[-1].minutes)),
        "held_out_perplexity": round(math.exp(nats), 3),
        "held_out_bits_per_byte": round(nats * len(held_out) / math.log(2) / held_out_bytes, 4),
        "curve": [dataclasses.asdict(point) for point in curve],
        "samples": write_samples(model, tokenizer, settings),
        "device_name": torch.cuda.get_device_name() if settings.device.startswith("cuda") else "processor",
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)},
    }
    write_folder(model, tokenizer, record, settings.out)
    log.info("held-out perplexity of the bf16 weights: %.3f", record["held_out_perplexity"])


if __name__ == "__main__":
    main()
