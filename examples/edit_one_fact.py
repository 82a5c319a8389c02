"""Write one fact into the default model, no service needed: `python examples/edit_one_fact.py`."""

from memit_core.edit import Editor
from memit_core.facts import Fact, group_facts
from memit_core.loading import load_model

fact = Fact("The Eiffel Tower", "{} is located in the city of", "Rome")
base = load_model()
editor = Editor(base)
edited = editor.apply(editor.solve(group_facts([fact])))

ids = base.tokenizer(fact.filled, return_tensors="pt").to(base.device)
for name, model in (("before", editor.apply({})), ("after", edited)):
    answer = model.generate(**ids, max_new_tokens=4, do_sample=False)[0, ids.input_ids.shape[1] :]
    print(f"{name}: {fact.filled}{base.tokenizer.decode(answer, skip_special_tokens=True)}")
