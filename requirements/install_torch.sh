#!/usr/bin/env bash
# Installs the torch that a lock pins: from where pip finds it (a folder of wheels, a mirror), and otherwise from INDEX.
# The ordinary index has only builds for CUDA, so a lock that pins a CPU build needs this before it can be installed.
# Usage: install_torch.sh PYTHON LOCK INDEX
set -euo pipefail
python=$1 lock=$2 index=$3
torch=$(grep '^torch==' "$lock")
install() { "$python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps "$@" "$torch"; }

# What pip says at the first try is of interest only if the second fails, too.
if said=$(install 2>&1); then
    exit 0
fi
echo "pip does not find $torch where it looks; taking it from $index ..." >&2
if ! install --index-url "$index"; then
    printf '%s\n' "$said" "" \
        "$torch can be installed neither from where pip looks nor from $index." \
        "Say where it is: make TORCH_INDEX=URL, or PIP_FIND_LINKS=FOLDER for a folder that has the wheel." >&2
    exit 1
fi
