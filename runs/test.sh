#!/usr/bin/env bash
# Sets up what is missing, then checks style and runs the tests. Further arguments go to pytest:
#   bash runs/test.sh
#   bash runs/test.sh tests/test_config.py -x
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$PYTHON" -m ruff check .
"$PYTHON" -m pytest -q -m "not gpu" "$@"
