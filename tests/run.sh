#!/usr/bin/env bash
# Install higfa, the pocket and the development tools into $VENV (default .venv), then check it all:
# style, types, documentation, tests. Further arguments go to pytest, e.g. `-m slow`.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV="${VENV:-.venv}"
[ -x "$VENV/bin/python" ] || python3 -m venv "$VENV"
# Three quarters of what is installed is never imported: compiled is what is, once.
unset PYTHONDONTWRITEBYTECODE
"$VENV/bin/python" -m pip install --quiet --no-compile --editable ".[dev]" ./pocket
export PATH="$PWD/$VENV/bin:$VENV/bin:$PATH" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
"$VENV/bin/python" tools/make_docs.py --check
"$VENV/bin/python" -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
