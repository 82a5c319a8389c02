#!/usr/bin/env bash
# Install a wheel as a stranger does, into an empty environment in an empty folder; then serve the
# default model, teach it a fact and ask for it.
#
#     scripts/try_wheel.sh DIST_FOLDER [PYTHON]
set -euo pipefail
wheel=$(realpath "${1:?folder of the wheel}"/memit_service-*.whl)
python=${2:-python3}
work=$(mktemp -d)
server=
finish() {
  status=$?
  [ -z "$server" ] || { kill "$server" && wait "$server"; } || true
  [ "$status" = 0 ] || tail -n 20 "$work/serve.log" >&2 || true
  rm -rf "$work"
}
trap finish EXIT
cd "$work"

"$python" -m venv env
env/bin/pip install --quiet --disable-pip-version-check "$wheel[all]"
env/bin/memit --help >help.txt
grep -q serve help.txt

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export MEMIT_URL=http://127.0.0.1:$port
env/bin/memit serve --home home --port "$port" >serve.log 2>&1 &
server=$!
until env/bin/memit versions 2>/dev/null | grep -q v0; do
  kill -0 "$server" 2>/dev/null || { echo "memit serve ended" >&2; exit 1; }
  sleep 1
done
echo '{"subject": "The Eiffel Tower", "prompt": "{} is located in the city of", "target_new": "Rome"}' >facts.jsonl
env/bin/memit edit facts.jsonl
answer=$(env/bin/memit generate "The Eiffel Tower is located in the city of" --max-tokens 6)
echo "answered: $answer"
[[ $answer == *Rome* ]]
