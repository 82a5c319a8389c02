#!/usr/bin/env bash
# Serve an exported version with vLLM, ask it once, and stop. vLLM is in an environment of its own.
#
#     memit export active --format peft --to ./adapter
#     bash examples/vllm_adapter.sh ./adapter BASE [PORT]
#
# VLLM is the command that the base's name comes after, by default "vllm serve".
set -euo pipefail

folder=$(realpath "$1") base=$2 port=${3:-8001}
# The rank is one of those that vLLM has; float32 is what the version was measured in on a CPU.
rank=$(sed -nE 's/.*"r": *([0-9]+).*/\1/p' "$folder/adapter_config.json")
dtype=$(sed -nE 's/.*"dtype": *"([a-z0-9]+)".*/\1/p' "$folder/manifest.json")

read -ra serve <<<"${VLLM:-vllm serve}"
"${serve[@]}" "$base" --port "$port" --host 127.0.0.1 --dtype "$dtype" \
  --enable-lora --max-lora-rank "$rank" --lora-modules "edited=$folder" &
server=$!
trap 'kill "$server" 2>/dev/null && wait' EXIT
until curl -fsS "http://127.0.0.1:$port/health" 2>/dev/null; do
  kill -0 "$server" 2>/dev/null || { echo "vLLM ended" >&2; exit 1; }
  sleep 2
done
for model in "$base" edited; do
  curl -fsS "http://127.0.0.1:$port/v1/completions" -H 'content-type: application/json' -d '{
    "model": "'"$model"'", "prompt": "The Eiffel Tower is located in the city of",
    "max_tokens": 8, "temperature": 0}'
  echo
done
