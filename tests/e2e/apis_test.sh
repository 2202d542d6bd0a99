#!/usr/bin/env bash
# The endpoints as curl sees them: OpenAI's, Ollama's and our own, streams byte by byte, and hostile JSON to every route.
# usage: apis_test.sh PROGRAM
set -uo pipefail
program=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
data=$(cd "$here/../../.." && pwd)/shared/data
models=${CABE_GOLDEN_MODELS:-$here/../../build/release/golden}
work=$(mktemp -d)
server=
trap 'kill "$server" 2>/dev/null; wait 2>/dev/null; rm -rf "$work"' EXIT
export CABE_HOME=$work/home
unset ENVIRONMENT
failed=0
complain() { echo "apis: $*"; failed=1; }
for tool in curl jq python3; do
    command -v "$tool" >/dev/null || { echo "skip: no $tool here"; exit 77; }
done

python3 "$here/../../tools/golden/make_chat.py" "$work/chat" || complain "no golden chat model"
mkdir -p "$CABE_HOME"
"$program" pull "$work/chat" --name chat >"$work/out" 2>&1 || complain "pull: $(cat "$work/out")"
"$program" pull "$models/bert-mean" --name embed >"$work/out" 2>&1 || complain "pull: $(cat "$work/out")"
"$program" serve --port 0 --memory 300M --generation-timeout 600 --worker-wait 600 >"$work/out" 2>"$work/err" &
server=$!
for _ in $(seq 6000); do
    url=$(sed -nE 's/^cabe listens at (http.*)/\1/p' "$work/out")
    [ -n "$url" ] && [ "$(curl -s -o /dev/null -w '%{http_code}' "$url/v1/models")" = 200 ] && break
    sleep 0.02
done

# status WANTED CURL_ARGUMENTS...: the body stays in $work/body, the header in $work/head
status() {
    local want=$1 got
    shift
    got=$(curl -s -m 600 -o "$work/body" -D "$work/head" -w '%{http_code}' "$@")
    [ "$got" = "$want" ] || complain "$*: status $got, wanted $want: $(head -c 300 "$work/body")"
}
body() { jq -e "$1" "$work/body" >/dev/null || complain "not $1: $(head -c 400 "$work/body")"; }
header() { grep -Eiq "$1" "$work/head" || complain "no header /$1/ in: $(cat "$work/head")"; }
chat='{"model":"chat","messages":[{"role":"user","content":"hi"}],"temperature":0'

# ---- OpenAI ----
status 200 "$url/v1/models"
body '.object == "list" and ([.data[].id] | sort) == ["chat", "embed"]'
status 200 "$url/v1/models/chat"
body '.id == "chat" and .object == "model"'
status 404 "$url/v1/models/none"
body '.error.code == "model_not_found" and .error.message != ""'
status 200 "$url/v1/chat/completions" -d "$chat,\"max_tokens\":4}"
header '^content-type: application/json'
header '^x-request-id: .'
body '.choices[0].message.role == "assistant" and .usage.completion_tokens <= 4 and .usage.prompt_tokens > 3'
answer=$(jq -r '.choices[0].message.content' "$work/body")
status 200 -N "$url/v1/chat/completions" -d "$chat,\"max_tokens\":4,\"stream\":true,\"stream_options\":{\"include_usage\":true}}"
header '^content-type: text/event-stream'
[ "$(tail -c 14 "$work/body")" = "data: [DONE]" ] || complain "no [DONE]: $(tail -c 80 "$work/body")"
sed -nE 's/^data: (\{.*)/\1/p' "$work/body" >"$work/events"
jq -se '.[0].choices[0].delta.role == "assistant" and .[-1].choices == [] and .[-1].usage.completion_tokens <= 4
    and ([.[].choices[0].finish_reason | select(. != null)] | length) == 1' "$work/events" >/dev/null ||
    complain "a stream: $(cat "$work/events")"
[ "$(jq -rs '[.[].choices[0].delta.content // ""] | add' "$work/events")" = "$answer" ] || complain "another answer, streamed"
status 200 "$url/v1/completions" -d '{"model":"chat","prompt":"a","max_tokens":3,"logprobs":1}'
body '.object == "text_completion" and (.choices[0].logprobs.tokens | length) <= 3'
status 200 "$url/v1/responses" -d '{"model":"chat","input":"hi","max_output_tokens":3}'
body '.object == "response" and .output[0].content[0].type == "output_text"'
status 404 "$url/v1/responses/resp_1"
status 200 "$url/v1/embeddings" -d '{"model":"embed","input":["a","b"]}'
body '(.data | length) == 2 and (.data[0].embedding | length) == (.data[1].embedding | length)'
status 400 "$url/v1/chat/completions" -d "$chat,\"temperature\":7}"
body '.error.message | test("JSON")' # a key twice
status 400 "$url/v1/chat/completions" -d '{"model":"chat","messages":[{"role":"user","content":"hi"}],"n":99}'
body '.error.param == "n" and .error.type == "invalid_request_error" and .error.code == "invalid_value"'
status 200 "$url/v1/chat/completions" -d "$chat,\"max_tokens\":2,\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]}"

# ---- Ollama ----
status 200 -I "$url/"
status 200 "$url/api/version"
body '.version | test("^[0-9]+[.][0-9]+[.][0-9]+$")'
status 200 "$url/api/tags"
body '[.models[].name] | sort == ["chat", "embed"]'
status 200 -N "$url/api/chat" -d "$chat,\"options\":{\"num_predict\":3}}"
header '^content-type: application/x-ndjson'
jq -se '(.[-1].done and (.[-1].done_reason | IN("stop", "length"))) and ([.[:-1][] | .done] | any | not)
    and (.[-1].eval_count <= 3)' "$work/body" >/dev/null || complain "a stream: $(cat "$work/body")"
status 200 "$url/api/generate" -d '{"model":"chat:latest","prompt":"hi","stream":false,"options":{"num_predict":3}}'
body '.done and .response != null and .total_duration > 0'
status 200 "$url/api/embed" -d '{"model":"embed","input":"a"}'
body '(.embeddings | length) == 1'
status 200 "$url/api/show" -d '{"model":"chat"}'
body '.template | test("im_start")'
status 404 "$url/api/show" -d '{"model":"none"}'
body '.error | type == "string"'
status 200 -X POST "$url/api/pull" -d "{\"model\":\"second\",\"path\":\"$work/chat\"}"
jq -se '.[-1].status == "success"' "$work/body" >/dev/null || complain "pull: $(cat "$work/body")"
status 200 "$url/v1/completions" -d '{"model":"second","prompt":"a","max_tokens":1}'
status 200 -X DELETE "$url/api/delete" -d '{"model":"second"}'
status 404 "$url/v1/completions" -d '{"model":"second","prompt":"a","max_tokens":1}'
body '.error.code == "model_not_found" and .error.param == "model"'
status 501 "$url/api/push" -d '{"model":"chat"}'

# ---- our own ----
status 200 "$url/v1/machine"
"$program" machine --json | jq -S 'keys' >"$work/keys"
[ "$(jq -S keys "$work/body")" = "$(cat "$work/keys")" ] || complain "/v1/machine is not cabe machine --json"
status 200 "$url/v1/machine?describe=8%20cores,%2016%20GB"
body '.recommendation.budget_bytes // .recommendation | . != null'
status 200 "$url/v1/plan" -d '{"model":"chat","memory":"200M"}'
body '.fits and .model == "chat"'
planned=$(jq '.phases[0].devices[0].by_purpose.process' "$work/body")
status 200 "$url/v1/state"
body ".memory.devices[0].purposes.process == $planned"
status 200 "$url/v1/plan" -d '{"model":"embed","describe":"4 cores, 2 GB","dtype":"f16"}'
body '.fits'
status 400 "$url/v1/plan" -d '{"model":"chat","memory":"much"}'
status 404 "$url/v1/plan" -d '{"model":"none"}'
body '.error.code == "model_not_found" and .error.param == "model"'
status 404 "$url/v1/tokenize" -d '{"model":"none","text":"a"}'
body '.error.code == "model_not_found" and .error.param == "model"'
status 200 "$url/v1/tokenize" -d '{"model":"chat","text":"caf\u00e9"}'
body '.count == 5'
tokens=$(jq -c '.tokens' "$work/body")
status 200 "$url/v1/detokenize" -d "{\"model\":\"chat\",\"tokens\":$tokens}"
body '.text == "caf\u00e9"'
status 200 -X POST "$url/v1/models/embed/load"
body '.state == "ready"'
status 200 -X POST "$url/v1/models/embed/pin"
status 200 "$url/v1/models/embed"
body '.pinned and .state == "ready" and .bytes > 0 and .settings.dtype != "" and .settings.batch_tokens > 0'
status 200 -X POST "$url/v1/models/embed/unpin"
status 200 -X POST "$url/v1/models/embed/unload"
status 404 -X POST "$url/v1/models/none/load"
body '.error.code == "model_not_found"'
status 404 -X POST "$url/v1/models/embed/dance"
status 200 "$url/v1/state"
body '.tier != "" and .recommendation and .workers.all > 0 and .slots.all > 0 and (.memory.devices[0].purposes.process > 0)
    and (.memory.holders | length) > 0 and .work.running == 0'
status 200 "$url/openapi.json"
body '.openapi == "3.1.0" and .paths["/v1/chat/completions"].post.requestBody'

# ---- the description and the answers ----
python3 "$here/openapi.py" "$url" chat embed "$work/chat" >"$work/described" || complain "$(cat "$work/described")"
tail -n 1 "$work/described"

# ---- what does not belong ----
if [ -r "$data/hostile-json/JSONTestSuite.tar.gz" ]; then
    python3 "$here/hostile_json.py" "$url" chat embed "$data" >"$work/hostile" || complain "$(cat "$work/hostile")"
    tail -n 1 "$work/hostile"
else
    echo "skip: hostile json, no data beside the checkout"
fi
kill -0 "$server" 2>/dev/null || complain "the server has ended: $(tail -n 5 "$work/err")"
[ "$failed" -eq 0 ] && echo "apis: every endpoint as curl sees it"
exit "$failed"
