#!/usr/bin/env bash
# End-to-end test of the running containers: after `docker compose up --build --wait`, teach a fact
# through the published port, take it back, restart the worker, and see that every version still
# answers as it did. `make compose-test` does it all. Needs curl and python3; leaves two versions.
# Where the covariance takes less than ten seconds (a GPU), start them with MEMIT_SCRATCH_SAVE_SECONDS=0.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

READY_SECONDS=300
EDIT_SECONDS=900 # the first edit waits for the covariance, minutes on a busy machine
TARGET=Rome
PROMPT='The Eiffel Tower is located in the city of'
FACT='{"subject": "The Eiffel Tower", "prompt": "{} is located in the city of", "target_new": "Rome"}'

step() { printf '[%4ds] == %s\n' "$SECONDS" "$*"; }
say() { printf '[%4ds]    %s\n' "$SECONDS" "$*"; }
fail() {
  printf '[%4ds] FAILED: %s\n' "$SECONDS" "$*" >&2
  docker compose ps --all >&2 || true
  docker compose logs --tail 40 service worker >&2 || true
  exit 1
}

# field PATH <JSON: what stands there, as text; empty where nothing does
field() {
  python3 -c '
import json, sys
found = json.load(sys.stdin)
for key in sys.argv[1].split("."):
    found = found[int(key)] if isinstance(found, list) else found.get(key)
print("" if found is None else found)' "$1"
}

# api METHOD PATH [JSON]: the body of the answer, which must be a 2xx
api() {
  local answer
  answer=$(curl --silent --show-error --max-time 120 --write-out '\n%{http_code}' --request "$1" \
    --config <(printf 'header = "Authorization: Bearer %s"' "$KEY") \
    ${3:+--header 'Content-Type: application/json' --data "$3"} "$URL$2") || fail "$1 $2: no answer"
  [[ ${answer##*$'\n'} == 2?? ]] || fail "$1 $2: $answer"
  printf '%s' "${answer%$'\n'*}"
}

# await SECONDS WHAT COMMAND...: run the command until it succeeds
await() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    ((SECONDS < end)) || fail "$what: not within the time given"
    sleep 1
  done
  say "$what"
}

service_ready() { curl --silent --fail --max-time 10 --output /dev/null "$URL/readyz"; }

worker_healthy() {
  [ "$(docker inspect --format '{{.State.Health.Status}}' "$(docker compose ps --quiet worker)")" = healthy ]
}

# ask VERSION: its greedy answer
ask() {
  local answer
  answer=$(api POST /generate "{\"prompt\": \"$PROMPT\", \"version\": \"$1\", \"max_tokens\": 12}")
  [ "$(field version <<<"$answer")" = "$1" ] || fail "$1 was asked, another answered: $answer"
  field text <<<"$answer"
}

# knows ANSWER: whether it starts with the target, after white space
knows() { [[ ${1#"${1%%[![:space:]]*}"} == "$TARGET"* ]]; }

# same ANSWER ANSWER VERSION
same() { [ "$1" = "$2" ] || fail "$3 answered '$1' and now '$2'"; }

active() { api GET /aliases/active | field version; }
weights() { api GET "/versions/$1" | field weights; }

# follow EDIT: wait until it is committed, asking $BEFORE meanwhile; sets EDIT to its end
follow() {
  local id end=$((SECONDS + EDIT_SECONDS)) answered=0 answer state
  id=$(field id <<<"$1")
  while EDIT=$(api GET "/edits/$id") && state=$(field state <<<"$EDIT"); do
    [[ $state == queued || $state == running ]] || break
    ((SECONDS < end)) || fail "not within ${EDIT_SECONDS} s: $EDIT"
    answer=$(ask "$BEFORE")
    same "$BEFORE_SAID" "$answer" "$BEFORE"
    answered=$((answered + 1))
    sleep 1
  done
  [ "$state" = committed ] || fail "$id was not committed: $EDIT"
  [ "$(active)" = "$(field version <<<"$EDIT")" ] || fail "active does not name its version: $EDIT"
  say "$id committed; meanwhile $BEFORE gave $answered answers"
}

step 'where the API listens'
address=$(docker compose port service 8000) || fail 'the service publishes no port'
URL=http://$address
hosts=$(docker compose ps --quiet | xargs docker inspect --format \
  '{{range .NetworkSettings.Ports}}{{range .}}{{println .HostIp}}{{end}}{{end}}' | sed '/^$/d' | sort -u)
[ "$hosts" = 127.0.0.1 ] || fail "ports are published on: $hosts"
say "$URL, and nothing is published but on 127.0.0.1"
await "$READY_SECONDS" ready service_ready
KEY=$(docker compose exec -T service cat /run/memit/first-key) || fail 'there is no first key'
refused=$(curl --silent --max-time 10 --output /dev/null --write-out '%{http_code}' "$URL/versions")
[ "$refused" = 401 ] || fail "without a key: $refused"
say 'nobody gets in without the key'

step 'the answer before'
BEFORE=$(active)
BEFORE_SAID=$(ask "$BEFORE")
say "$BEFORE: $PROMPT${BEFORE_SAID%%$'\n'*}"
knows "$BEFORE_SAID" && fail "$BEFORE knows the fact already: start with fresh volumes"

step "teach it: $TARGET"
edit=$(api POST /edits "{\"facts\": [$FACT]}")
follow "$edit"
fact=$(field facts.0.id <<<"$EDIT")
LEARNED=$(field version <<<"$EDIT")
LEARNED_SAID=$(ask "$LEARNED")
say "$LEARNED: $PROMPT${LEARNED_SAID%%$'\n'*}"
knows "$LEARNED_SAID" || fail "$LEARNED does not answer with $TARGET"
again=$(ask "$BEFORE")
same "$BEFORE_SAID" "$again" "$BEFORE"
say "$BEFORE answers as before"

step 'the covariance was saved on the way'
worker_log=$(docker compose logs --no-color worker)
saves=$(grep -c 'saved the covariance so far' <<<"$worker_log") ||
  fail 'it was not saved: start with fresh volumes and MEMIT_SCRATCH_SAVE_SECONDS=0'
grep 'the covariance is not saved' <<<"$worker_log" && fail 'a save of it failed'
left=$(docker compose exec -T worker ls -A /data/scratch)
[ -z "$left" ] || fail "left in the scratch: $left"
say "$saves times, and nothing of it is left"

step 'take it back'
edit=$(api DELETE "/facts/$fact")
follow "$edit"
RETRACTED=$(field version <<<"$EDIT")
again=$(ask "$RETRACTED")
same "$BEFORE_SAID" "$again" "$RETRACTED"
[ "$(weights "$RETRACTED")" = "$(weights "$BEFORE")" ] || fail "$RETRACTED has not the weights of $BEFORE"
say "$RETRACTED has the weights and the answer of $BEFORE"

step 'restart the worker'
docker compose restart worker
await "$READY_SECONDS" 'the worker is healthy' worker_healthy
await "$READY_SECONDS" ready service_ready
[ "$(active)" = "$RETRACTED" ] || fail "active does not name $RETRACTED any more"
again=$(ask "$LEARNED")
same "$LEARNED_SAID" "$again" "$LEARNED"
again=$(ask "$RETRACTED")
same "$BEFORE_SAID" "$again" "$RETRACTED"
say "$LEARNED still answers as it did, $RETRACTED too"

step passed
