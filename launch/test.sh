#!/usr/bin/env bash
# Sets up .venv, checks style and types, and runs all tests that need no GPU.
# Arguments go to pytest: bash launch/test.sh tests/unit
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
bin=".venv/bin"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/basedpyright"
exec "$bin/python" -m pytest -m "not gpu" "$@"
