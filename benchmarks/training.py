"""Quantization-aware fine-tuning: how much of the KL that rounding loses comes back, in how much time.

Every decided unit of the model goes to one format. The text is one the model wrote itself before the clock starts, and
the KL is measured on the bundled evaluation text, which training never sees.

    make benchmark NAME=training ARGS="--threads 2 --seconds 300"
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.fisher import Silent
from quant_core.evaluation.quality import evaluate
from quant_core.methods.training.run import train
from quant_core.models.loading import load
from quant_core.schema import EvaluateRequest, ModelRef, Setup, TextSource, TrainRequest, replace


def main() -> None:
    """Round, train, and print what came back."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--format", default="int2/g64/asym")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=TrainRequest.learning_rate)
    parser.add_argument("--step-rate", type=float, default=TrainRequest.step_rate)
    parser.add_argument("--rank", type=int, default=0, help="train a LoRA update of this rank")
    parser.add_argument("--text", default="self", choices=("self", "calibration"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = load(ModelRef(options.model, dtype=options.dtype, device=options.device))
    info, context = loaded.info, Silent(loaded)
    assignment = {unit.name: options.format for unit in info.units if unit.decided}
    measure = EvaluateRequest(info.ref, info.fingerprint, assignment)
    rounded = evaluate(context, measure)
    done = train(
        context,
        TrainRequest(
            model=info.ref,
            fingerprint=info.fingerprint,
            assignment=assignment,
            text=TextSource(options.text),
            tokens=options.tokens,
            sequence=options.sequence,
            steps=options.steps,
            seconds=options.seconds,
            batch=options.batch,
            learning_rate=options.rate,
            step_rate=options.step_rate,
            mode="lora" if options.rank else "full",
            rank=options.rank or TrainRequest.rank,
        ),
    )
    trained = evaluate(context, replace(measure, setup=Setup(trained=done.key)))
    where = f"{torch.get_num_threads()} threads" if info.device == "cpu" else info.device
    print(f"\n{info.title}, {len(assignment)} units in {options.format}, {where}, {info.compute_dtype}")
    print(f"{done.learned:,} numbers trained on {done.text_label}: {done.steps:,} steps, ", end="")
    print(f"{done.tokens:,} tokens seen in {done.seconds:.0f} s ({done.tokens / done.seconds:,.0f} a second)")
    print(f"held-out training text: KL {done.kl_before:.4f} before, {done.kl_after:.4f} after\n")
    print("| evaluation text | KL, nats a token | perplexity | top-1 agreement |")
    print("| --- | --- | --- | --- |")
    for name, found in (("rounded to nearest", rounded), ("trained", trained)):
        error = f"± {found.kl_stderr:.4f}"
        print(
            f"| {name} | {found.kl_mean:.4f} {error} | {found.perplexity:.2f} | {found.top1_agreement:.1%} |"
        )
    print(f"\nperplexity of the original: {rounded.perplexity_original:.2f}")
    print(f"won back: {1 - trained.kl_mean / rounded.kl_mean:.1%} of the KL")


if __name__ == "__main__":
    main()
