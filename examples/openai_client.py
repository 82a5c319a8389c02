"""Ask the untouched model and the newest facts the same, as any OpenAI client does.

pip install openai
python examples/openai_client.py [http://127.0.0.1:8000]

Where the service asks for a key, MEMIT_API_KEY has it.
"""

import os
import sys

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("MEMIT_API_KEY", "none"))
name = client.models.list().data[0].id
print("models:", ", ".join(model.id for model in client.models.list()))

for model in (f"{name}@base", name):
    answer = client.completions.create(
        model=model,
        prompt="The Eiffel Tower is located in the city of",
        temperature=0,
        max_tokens=8,
    )
    print(f"{model} ({answer.system_fingerprint}):{answer.choices[0].text}")

stream = client.chat.completions.create(
    model=name,
    messages=[
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "Where is the Eiffel Tower?"},
    ],
    temperature=0,
    max_tokens=32,
    stream=True,
)
print("chat:", end=" ")
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
