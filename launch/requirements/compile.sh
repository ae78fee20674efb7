#!/usr/bin/env bash
# Pins the CPU and the GPU stack anew from pyproject.toml into cpu.txt and gpu.txt, without
# addresses.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ -n "${PIP_FIND_LINKS:-}" ]; then
    export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS// /,}}"
    torch_backend=()
else
    torch_backend=(--torch-backend cpu)
fi
.venv/bin/uv pip compile --quiet --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
    --python-version 3.11 --override launch/requirements/overrides.txt "${torch_backend[@]}" \
    --extra cpu --extra dev pyproject.toml launch/requirements/build.in -o launch/requirements/cpu.txt
# PyPI's own builds are those of CUDA; FlashAttention builds against them in docker/Dockerfile.
.venv/bin/uv pip compile --quiet --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --override launch/requirements/gpu_overrides.txt \
    --extra gpu pyproject.toml launch/requirements/build.in -o launch/requirements/gpu.txt
