#!/usr/bin/env bash
# Makes the virtual environment: install.sh PYTHON VENV. Torch first, and a CPU build where one can be had, because everything that
# depends on torch would otherwise pull in its CUDA libraries.
set -euo pipefail
python=$1 venv=$2
say() { echo "== set-up: $*"; }

say "virtual environment in $venv with $("$python" --version)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
py="$venv/bin/python"
pip() { "$py" -m pip --disable-pip-version-check --quiet "$@" 2> >(grep -v "neither a file nor a directory" >&2); }

if ! "$py" -c "import torch" 2>/dev/null; then
    pinned=$(grep '^torch==' constraints.txt)
    say "installing $pinned (point PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS at a CPU build to save a few GB)"
    pip install "$pinned"
fi
say "installing sll and what its tests use"
pip install -c constraints.txt -e ".[dev]"
say "ready: torch $("$py" -c 'import torch; print(torch.__version__)')"
