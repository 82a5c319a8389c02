"""Load an exported version on top of its base with peft.

pip install peft
memit export active --format peft --to ./adapter
python examples/peft_adapter.py ./adapter [FOLDER_OR_HUB_NAME_OF_THE_BASE]
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
base = sys.argv[2] if len(sys.argv) > 2 else manifest["model"]
dtype = getattr(torch, manifest["dtype"])  # that of the version: its answers were measured in it

tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
model = PeftModel.from_pretrained(model, str(folder))

prompt = tokenizer("The Eiffel Tower is located in the city of", return_tensors="pt")
answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)
print(tokenizer.decode(answer[0], skip_special_tokens=True))
