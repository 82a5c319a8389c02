#!/usr/bin/env bash
# Serve an exported version with vLLM, ask it once, and stop. vLLM is in an environment of its own.
#
#     memit export active --format peft --to ./adapter
#     VLLM=/path/to/its/bin/vllm bash examples/vllm_adapter.sh ./adapter BASE [PORT]
set -euo pipefail

folder=$(realpath "$1") base=$2 port=${3:-8001}
# The rank is one of those that vLLM has; float32 is what the version was measured in on a CPU.
rank=$(sed -nE 's/.*"r": *([0-9]+).*/\1/p' "$folder/adapter_config.json")
dtype=$(sed -nE 's/.*"dtype": *"([a-z0-9]+)".*/\1/p' "$folder/manifest.json")

"${VLLM:-vllm}" serve "$base" --port "$port" --host 127.0.0.1 --dtype "$dtype" --max-model-len 512 \
  --enable-lora --max-lora-rank "$rank" --lora-modules "edited=$folder" &
trap 'kill $!; wait' EXIT
until curl -fsS "http://127.0.0.1:$port/health" 2>/dev/null; do
  kill -0 $! || exit 1
  sleep 2
done
for model in "$base" edited; do
  curl -fsS "http://127.0.0.1:$port/v1/completions" -H 'content-type: application/json' -d '{
    "model": "'"$model"'", "prompt": "The Eiffel Tower is located in the city of",
    "max_tokens": 8, "temperature": 0}'
  echo
done
