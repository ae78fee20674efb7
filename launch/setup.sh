#!/usr/bin/env bash
# Makes .venv in the checkout with the pinned packages and installs the project into it:
#
#   bash launch/setup.sh        the CPU stack, or again what .venv holds
#   bash launch/setup.sh gpu    the CUDA stack, with FlashAttention built against its torch
#
# Running it again is fast: it does nothing while the pins are unchanged. Needs Python 3.11
# and a C++ compiler; FlashAttention needs the CUDA toolkit (nvcc) too.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
venv="$root/.venv"
kind="${1:-$(cat "$venv/.kind" 2>/dev/null || echo cpu)}"
case "$kind" in
cpu | gpu) ;;
*)
    echo "error: '$kind' is not a stack: want cpu or gpu" >&2
    exit 2
    ;;
esac
requirements="launch/requirements/$kind.txt"

find_python() {
    for candidate in "${PYTHON:-}" python3.11 python3 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 was not found (tried PYTHON, python3.11, python3, python)." >&2
    echo "       Install it, or name it: PYTHON=/path/to/python3.11 bash launch/setup.sh" >&2
    return 1
}

stamp="$(cat "$requirements" pyproject.toml | sha256sum | cut -d' ' -f1)"
if [ -f "$venv/.installed" ] && [ "$(cat "$venv/.installed")" = "$stamp" ]; then
    exit 0
fi
if ! command -v g++ >/dev/null 2>&1 && ! command -v c++ >/dev/null 2>&1; then
    echo "error: no C++ compiler (g++) was found; DeepSpeed compiles a small extension." >&2
    exit 1
fi
if [ "$kind" = gpu ] && ! command -v nvcc >/dev/null 2>&1; then
    echo "error: nvcc was not found; FlashAttention is built with it. Install the CUDA 13.0 toolkit," >&2
    echo "       put its bin folder on PATH, or use docker/Dockerfile" >&2
    exit 1
fi
held="$kind"
[ ! -f "$venv/.installed" ] || held="$(cat "$venv/.kind" 2>/dev/null || echo cpu)"
if [ "$held" != "$kind" ]; then
    echo "error: .venv holds the $held stack: remove it first, or use another checkout" >&2
    exit 2
fi
python="$(find_python)"
echo "Setting up .venv (a few minutes the first time: about 4 GB of packages)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
[ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip install --quiet uv

# uv doesn't read pip's find-links setting, so it is handed on; without it, uv's
# own switch finds the CPU build of torch.
torch_backend=()
if [ "$kind" = gpu ]; then
    : # PyPI's own builds are those of CUDA
elif [ -n "${PIP_FIND_LINKS:-}" ]; then
    export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS// /,}}"
else
    torch_backend=(--torch-backend cpu)
fi
install=("$venv/bin/uv" pip install --quiet --python "$venv/bin/python")
# The file pins every package, so nothing is resolved; what CUDA builds would
# pull in is not in it (launch/requirements/overrides.txt).
# Compiled once: a run starts a dozen processes that import these, each of which would
# compile them for itself where PYTHONDONTWRITEBYTECODE is set.
# FlashAttention builds against the torch that is there, so it comes after the others.
grep --invert-match '^flash-attn==' "$requirements" |
    "${install[@]}" --no-deps --compile-bytecode "${torch_backend[@]}" -r -
if [ "$kind" = gpu ]; then
    grep '^flash-attn==' "$requirements" | "${install[@]}" --no-deps --no-build-isolation -r -
fi
"${install[@]}" --no-deps --editable .
"$venv/bin/python" -m compileall -q rubric_rl
echo "$kind" >"$venv/.kind"
echo "$stamp" >"$venv/.installed"
