#!/usr/bin/env bash
# Starts Ray on the nodes of a Slurm job, trains, and stops everything:
#
#   sbatch launch/slurm.sh experiment=paper_health run.dir=/shared/runs/health \
#       data.path=/shared/data/health.jsonl
#
# What to change:
#   #SBATCH lines     nodes, GPUs and CPUs of each, time; partition and account, if yours
#                     wants them: sbatch --partition=P --account=A launch/slurm.sh ...
#   RUBRIC_RL         the rubric-rl command (default: .venv/bin/rubric-rl of the checkout
#                     that sbatch was called in, which all nodes must see); ray lies beside it
#   run.dir           on storage that every node sees
#   RAY_METRICS_PORT  a port for the metrics of each node, to scrape (default: any)
#
# Keys (OPENAI_API_KEY, WANDB_API_KEY, HF_TOKEN) are taken from the environment that sbatch
# is called in. Half an hour before its time is over, and at `scancel --signal=TERM --batch
# JOB`, the run completes its update, writes a checkpoint and the job queues again, to go on
# from it (run.resume=auto). An update and a checkpoint must fit into that half hour
# (--signal; `rubric-rl plan` estimates a step). A cancelled job (plain scancel) doesn't queue
# again; its newest checkpoint stands.
#SBATCH --job-name=rubric-rl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@1800
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

rubric_rl="${RUBRIC_RL:-${SLURM_SUBMIT_DIR:-$PWD}/.venv/bin/rubric-rl}"
ray="$(dirname "$rubric_rl")/ray"
port="${RAY_PORT:-6379}"
metrics=(${RAY_METRICS_PORT:+"--metrics-export-port=$RAY_METRICS_PORT"})
start_timeout_s="${RAY_START_TIMEOUT_S:-300}"
# `rubric-rl train` exits with it when it was stopped while it trained.
stopped=130
# A time limit that leaves no time before --signal would queue such a job for ever. Slurm
# counts all restarts, those in training too.
most_idle_restarts=3

for command in "$rubric_rl" "$ray"; do
    if [ ! -x "$command" ]; then
        echo "error: $command is not there: set RUBRIC_RL to the rubric-rl command" >&2
        exit 2
    fi
done
case " $* " in
*" run.dir="*) ;;
*)
    echo "error: give run.dir=FOLDER on shared storage, so that the job can go on there" >&2
    exit 2
    ;;
esac

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes[0]}"
# Slurm gives a step one core unless it is told, and Ray counts those of the whole machine.
cpus="${SLURM_CPUS_PER_TASK:-$(nproc)}"
# Ray's usual /tmp/ray may be another user's on a shared node. The name is short: paths of
# sockets in it have room for 107 bytes.
export RAY_TMPDIR="${RAY_TMPDIR:-/tmp/ray-$SLURM_JOB_ID}"
export RAY_ADDRESS="$head:$port" RAY_USAGE_STATS_ENABLED=0
steps=()
driver=""
times_asked=0

# shellcheck disable=SC2329 # called by the traps below
stop() {
    # Ending a step ends the `ray start --block` in it, which takes its node's processes along.
    for step in "${steps[@]}"; do
        kill -TERM "$step" 2>/dev/null || true
    done
    wait || true
}
# shellcheck disable=SC2329
ask() {
    times_asked=$((times_asked + 1))
    [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true
}
# shellcheck disable=SC2329
queue_again() {
    local state
    # scancel asks with the same signal, and means it.
    state="$(squeue -h -j "$SLURM_JOB_ID" -o %T || true)"
    if [ "$state" != RUNNING ]; then
        echo "asked to stop $1, and not queueing again: the job is ${state:-unknown to squeue}" >&2
        exit "$stopped"
    fi
    echo "asked to stop $1: queueing again"
    scontrol requeue "$SLURM_JOB_ID"
    exit "$stopped"
}
# shellcheck disable=SC2329
queue_unless_idle() {
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$most_idle_restarts" ]; then
        echo "error: asked to stop $1, after $SLURM_RESTART_COUNT restarts: give the job more" \
            "time (--time), or the end of it less (--signal)" >&2
        exit 1
    fi
    queue_again "$1"
}
trap stop EXIT
trap ask TERM

on() {
    local node="$1"
    shift
    srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$node" \
        --export=ALL "$@" &
    steps+=("$!")
}

# The address is for who joins; a head that finds it set would refuse to start.
on "$head" env -u RAY_ADDRESS "$ray" start --head --block --port="$port" \
    --num-cpus="$cpus" --include-dashboard=false ${metrics[@]+"${metrics[@]}"}
for node in "${nodes[@]:1}"; do
    on "$node" "$ray" start --block --address="$RAY_ADDRESS" \
        --num-cpus="$cpus" ${metrics[@]+"${metrics[@]}"}
done

echo "waiting for Ray on ${#nodes[@]} nodes"
deadline=$((SECONDS + start_timeout_s))
# One line for each live node.
while :; do
    alive="$("$ray" status 2>/dev/null | grep -c ' node_' || true)"
    [ "$alive" -lt "${#nodes[@]}" ] || break
    [ "$times_asked" -eq 0 ] || queue_unless_idle "before Ray was up"
    if [ "$SECONDS" -ge "$deadline" ]; then
        echo "error: $alive of ${#nodes[@]} nodes joined $RAY_ADDRESS in $start_timeout_s s" >&2
        exit 1
    fi
    sleep 1
done

# Later overrides win: run.resume=never among the arguments holds.
"$rubric_rl" train run.resume=auto "$@" &
driver=$!
[ "$times_asked" -eq 0 ] || kill -TERM "$driver" 2>/dev/null || true
while :; do
    before="$times_asked" code=0
    wait "$driver" || code=$?
    # A trap ends the wait as well, and the driver is not done then.
    [ "$before" -ne "$times_asked" ] || break
done
if [ "$times_asked" -gt 0 ]; then
    case "$code" in
    "$stopped") queue_again "in training" ;;
    # Ends of a process that SIGTERM meets while it starts: Ray's, and the system's.
    15 | 143) queue_unless_idle "before training" ;;
    esac
fi
exit "$code"
