#!/usr/bin/env bash
# Sets up .venv and trains the packaged small model on the packaged prompts, on CPU.
# Arguments are passed on: bash launch/quickstart.sh run.seed=3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
exec .venv/bin/rubric-rl train experiment=quickstart_cpu "$@"
