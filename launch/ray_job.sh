#!/usr/bin/env bash
# Submits a training to a Ray cluster that is running:
#
#   export RAY_API_SERVER_ADDRESS=http://HEAD:8265
#   bash launch/ray_job.sh experiment=paper_health run.dir=/shared/runs/health \
#       data.path=/shared/data/health.jsonl
#
# What to change:
#   the address       of the cluster's dashboard, port 8265 of the head node
#   run.dir           absolute, on storage that every node sees: the job itself runs in a
#                     copy of this checkout that is deleted after it
#   data.path, model  absolute too, or builtin:, or a name of the hub
#   the rest          is Hydra's, as in `rubric-rl train`
#
# The nodes need the packages of pyproject.toml (docker/Dockerfile has them); the code is
# sent from here, less what launch/runtime_env.yaml leaves out. Keys (OPENAI_API_KEY,
# WANDB_API_KEY, HF_TOKEN) must be in the environment in which `ray start` ran on the nodes:
# what is submitted with a job can be read by everyone who sees the dashboard.
#
# The same command again goes on from the newest checkpoint (run.resume=auto). Stop with
#   ray job stop JOB_ID
# which leaves a checkpoint. Variables: RAY is the ray command (default: .venv's, else the
# path's); SUBMISSION_ID names the job; NO_WAIT=1 returns at once instead of following it.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

fail() {
    echo "error: $1" >&2
    exit 2
}

if [ -z "${RAY_API_SERVER_ADDRESS:-}" ]; then
    fail "RAY_API_SERVER_ADDRESS is not set: give the dashboard's address, as http://HEAD:8265"
fi
run_dir=""
for override in "$@"; do
    case "$override" in
    *[!A-Za-z0-9_./:=,@%+~-]*)
        fail "override '$override' has characters that a shell changes on its way: put the value
       into a file of configs/experiment and name that" ;;
    run.dir=/*) run_dir="${override#run.dir=}" ;;
    data.path=/* | data.eval_path=/* | data.path=builtin:*) ;;
    data.path=* | data.eval_path=*)
        fail "$override is a path in this checkout, which the job doesn't have: make it absolute" ;;
    esac
done
[ -n "$run_dir" ] || fail "run.dir=/ABSOLUTE/FOLDER on shared storage is not among the arguments"

ray="${RAY:-}"
if [ -z "$ray" ]; then
    ray="ray"
    [ -x .venv/bin/ray ] && ray=".venv/bin/ray"
fi
options=(--working-dir . --runtime-env launch/runtime_env.yaml)
[ -z "${SUBMISSION_ID:-}" ] || options+=(--submission-id "$SUBMISSION_ID")
[ -z "${NO_WAIT:-}" ] || options+=(--no-wait)
# Later overrides win: run.resume=never among the arguments holds.
exec "$ray" job submit "${options[@]}" -- python -m rubric_rl.train run.resume=auto "$@"
