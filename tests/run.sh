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
# Each of these takes one core, so they go beside the tests.
{ ruff check . && ruff format --check . && mypy && python tools/make_docs.py --check; } &
STYLE=$!
FAILED=0
python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@" || FAILED=$?
wait "$STYLE"
exit "$FAILED"
