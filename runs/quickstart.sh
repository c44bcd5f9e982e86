#!/usr/bin/env bash
# The whole chain on a CPU, from a fresh machine: set-up, then documents to a grounded answer.
#
#   bash runs/quickstart.sh
#   bash runs/quickstart.sh --documents my_documents.jsonl
#
# Run again, it goes on where it stopped. Arguments are those of `python -m scripts.quickstart --help`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec "$PYTHON" -m scripts.quickstart "$@"
