"""AutoRound's side of ``benchmarks.peers``; runs in an environment of its own: ASKED.json ANSWER.json.

AutoScheme tokenizes text itself; it is given the text of the same tokens, a little shorter, since a tokenizer need not
give back quite as many.
"""

import json
import sys
import time
from pathlib import Path

import torch
from auto_round import AutoScheme
from auto_round.auto_scheme.gen_auto_scheme import GenScheme
from auto_round.schemes import QuantizationScheme
from transformers import AutoModelForCausalLM, AutoTokenizer

asked = json.loads(Path(sys.argv[1]).read_text())
torch.set_num_threads(asked["threads"])
tokenizer = AutoTokenizer.from_pretrained(asked["model"])
text = Path(sys.argv[2]).with_suffix(".text.json")
text.write_text(json.dumps([{"text": tokenizer.decode(row)} for row in asked["ids"]]))

recipes = []
seconds = 0.0
for budget in asked["budgets"]:
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).eval()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    ]
    options = [
        QuantizationScheme(bits=bits, group_size=asked["group"], sym=True, data_type="int", act_bits=16)
        for bits in asked["bits"]
    ]
    scheme = AutoScheme(
        avg_bits=budget,
        options=options,
        nsamples=len(asked["ids"]),
        seqlen=len(asked["ids"][0]) - 16,
        batch_size=4,
        low_gpu_mem_usage=False,
        enable_torch_compile=False,
    )
    begun = time.perf_counter()
    made = GenScheme(scheme, model, names, {}, dataset=str(text), device_map="cpu", tokenizer=tokenizer)
    found = made.get_layer_config()
    seconds = seconds or time.perf_counter() - begun
    recipes.append({f"{name}.weight": int(found[name]["bits"]) for name in names})
Path(sys.argv[2]).write_text(json.dumps({"seconds": seconds, "recipes": recipes}))
