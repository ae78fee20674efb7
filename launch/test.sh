#!/usr/bin/env bash
# Sets up .venv, checks style and types, and runs all tests that need no GPU.
# Arguments go to pytest: bash launch/test.sh tests/unit
# COVERAGE=1 prints which lines the tests reach, and makes them about 2.5 times as slow.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
bin=".venv/bin"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/basedpyright"
coverage=()
[ -z "${COVERAGE:-}" ] || coverage=(--cov=rubric_rl --cov-report=term:skip-covered)
exec "$bin/python" -m pytest -m "not gpu and not cluster and not trl" "${coverage[@]}" "$@"
