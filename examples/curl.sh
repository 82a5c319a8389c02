#!/usr/bin/env bash
# Teach the running service a fact, ask two versions, and take the fact back; needs curl alone.
#
#     bash examples/curl.sh [http://127.0.0.1:8000]
set -euo pipefail

url=${1:-http://127.0.0.1:8000}
json='content-type: application/json'

say() { printf '\n== %s\n' "$*"; }

say "a fact, and its version once it is committed; the first edit of a new registry takes minutes"
edit=$(curl -fsS "$url/edits" -H "$json" -H 'prefer: wait=30' -d '{
  "facts": [{"subject": "The Eiffel Tower", "prompt": "{} is located in the city of", "target_new": "Rome"}]}')
id=$(sed -E 's/^\{"id":"(edit-[0-9a-f]{20})".*/\1/' <<<"$edit")
while [[ $edit =~ '"state":"'(queued|running) ]]; do
  sleep 2
  edit=$(curl -fsS "$url/edits/$id")
done
echo "$edit"

say "the untouched model and the new version, side by side"
curl -fsS "$url/generate" -H "$json" -d '{
  "prompt": "The Eiffel Tower is located in the city of", "max_tokens": 8, "versions": ["v0", "active"]}'

say "the same from OpenAI's API, as a stream"
curl -fsS "$url/v1/completions" -H "$json" -d '{
  "prompt": "The Eiffel Tower is located in the city of", "max_tokens": 8, "temperature": 0, "stream": true}'

say "the fact is taken back"
fact=$(echo "$edit" | sed -E 's/.*"facts":\[\{"id":"(fact-[0-9a-f]{20})".*/\1/')
curl -fsS -X DELETE "$url/facts/$fact" -H 'prefer: wait=60'
echo
