#!/usr/bin/env bash
# One box of 8 GPUs: vLLM serves the prompted teacher on the first four, the student learns on the others.
#
#   launch/gpu_box.sh install
#   launch/gpu_box.sh run --config=configs/score_qwen2_5_7b.py --workdir=runs/seven --config.mesh.train="(1,4,1)" …
#
# TEACHER names the teacher's model, PORT the server's port. Two virtual environments, since vLLM brings a torch of its own.
# DRY_RUN=1 prints the commands and does nothing. The server ends with the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TEACHER=${TEACHER:-Qwen/Qwen2.5-72B-Instruct}
PORT=${PORT:-8000}
URL=http://127.0.0.1:$PORT/v1

perform() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  [[ -n ${DRY_RUN:-} ]] || "$@"
}

install() {
  perform python3 -m venv .venv
  perform .venv/bin/pip install ".[cuda13]"
  perform python3 -m venv .venv-vllm
  perform .venv-vllm/bin/pip install vllm
}

serve() {
  perform env CUDA_VISIBLE_DEVICES=0,1,2,3 .venv-vllm/bin/vllm serve "$TEACHER" --tensor-parallel-size=4 --port="$PORT"
}

run() {
  if [[ -n ${DRY_RUN:-} ]]; then
    serve
  else
    serve > vllm.log 2>&1 &
    trap 'kill %1' EXIT
    until curl --silent --fail "$URL/models" > /dev/null; do
      kill -0 %1 || { echo "error: the server ended; see vllm.log" >&2 && exit 1; }
      sleep 5
    done
  fi
  perform env CUDA_VISIBLE_DEVICES=4,5,6,7 .venv/bin/python -m score_jax.main --config.teacher.kind=prompted \
    --config.chat.kind=endpoint --config.chat.url="$URL" --config.chat.model="$TEACHER" "$@"
}

case ${1:-} in
  install | run) "$@" ;;
  *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' launch/gpu_box.sh >&2 && exit 2 ;;
esac
