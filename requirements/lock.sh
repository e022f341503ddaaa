#!/usr/bin/env bash
# Resolves the *.in files into complete pinned locks; a pin stays as it is while it fits (`lock.sh --upgrade`: the newest).
# cpu.txt needs an index (UV_INDEX) or a folder (UV_FIND_LINKS) that has torch's CPU build. gpu.txt must not see either: a
# CPU build found first would be locked with the requirements of that build, without CUDA's libraries.
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PATH:../.venv/bin"
common=(--no-config --python-version 3.11 --no-header --no-annotate -q "$@")
uv pip compile cpu.in common.in --override without.txt "${common[@]}" -o cpu.txt
cat cpu.txt dev.txt > all.tmp
uv pip compile cpu.in common.in dev.in --override without.txt "${common[@]}" -o all.tmp
grep -vxFf cpu.txt all.tmp > dev.txt && rm all.tmp
env -u UV_FIND_LINKS -u UV_INDEX -u UV_EXTRA_INDEX_URL -u UV_TORCH_BACKEND \
    uv pip compile gpu.in common.in --python-platform x86_64-manylinux_2_28 "${common[@]}" -o gpu.txt
