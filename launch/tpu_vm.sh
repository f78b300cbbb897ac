#!/usr/bin/env bash
# One slice of TPUs as a queued resource: ask for it, install on all of its hosts, run, look, give it back.
#
#   launch/tpu_vm.sh create
#   launch/tpu_vm.sh install
#   launch/tpu_vm.sh run --config=configs/score_qwen2_5_7b.py:v5e --workdir=gs://BUCKET/runs/seven
#   launch/tpu_vm.sh log
#   launch/tpu_vm.sh delete
#
# The environment says which: NAME, ZONE, TYPE, RUNTIME, SPOT=1, PROJECT. DRY_RUN=1 prints the commands and does nothing.
# After a preemption: create, install, run again; the run goes on from what the workdir holds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

NAME=${NAME:-score-jax}
ZONE=${ZONE:-us-west4-a}
TYPE=${TYPE:-v5litepod-64}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite} # of v5p: v2-alpha-tpuv5; of v6e: v2-alpha-tpuv6e
PLACE=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})

perform() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  [[ -n ${DRY_RUN:-} ]] || "$@"
}

on_all_hosts() {
  perform gcloud compute tpus tpu-vm ssh "$NAME" "${PLACE[@]}" --worker=all --command="$1"
}

state() {
  gcloud compute tpus queued-resources describe "$NAME" "${PLACE[@]}" --format='value(state.state)'
}

create() {
  perform gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" "${PLACE[@]}" \
    --accelerator-type="$TYPE" --runtime-version="$RUNTIME" ${SPOT:+--spot}
  [[ -z ${DRY_RUN:-} ]] || return 0
  until [[ $(state) == ACTIVE ]]; do
    case $(state) in FAILED | SUSPENDED) echo "error: the resource $NAME is $(state)" >&2 && exit 1 ;; esac
    sleep 30
  done
}

# The hosts' own Python is older than 3.11, so uv brings one. The wheel is of this checkout, with what is changed in it.
install() {
  perform python3 -m pip wheel --quiet --no-deps --wheel-dir=dist .
  perform gcloud compute tpus tpu-vm scp --recurse dist configs "$NAME:" "${PLACE[@]}" --worker=all
  on_all_hosts "curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv venv --clear --python=3.12 ~/score \
&& ~/.local/bin/uv pip install --python ~/score/bin/python \"\$(ls -t ~/dist/score_jax-*.whl | head -1)[tpu]\""
}

# Every host runs the same command; the processes find each other. It goes on when this shell is gone.
run() {
  local arguments
  arguments=$(printf ' %q' "$@")
  on_all_hosts "nohup ~/score/bin/python -m score_jax.main$arguments > ~/run.log 2>&1 < /dev/null &"
}

log() {
  perform gcloud compute tpus tpu-vm ssh "$NAME" "${PLACE[@]}" --worker=0 --command="tail -n 40 -F ~/run.log"
}

delete() {
  perform gcloud compute tpus queued-resources delete "$NAME" "${PLACE[@]}" --force --quiet
}

case ${1:-} in
  create | install | run | log | delete) "$@" ;;
  *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' launch/tpu_vm.sh >&2 && exit 2 ;;
esac
