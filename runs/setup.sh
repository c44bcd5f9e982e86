# Sourced by the other runs: makes the virtual environment and installs the project, then sets $PYTHON and $root.
# The working folder stays as it is, so that paths given by the user keep their meaning.
# Nothing is installed again unless pyproject.toml or constraints.txt changed.
#
#   NANOCHAT_VENV    folder of the virtual environment (.venv)
#   NANOCHAT_EXTRAS  extras to install (dev)
#   NANOCHAT_UV=1    install with uv, if you have it; plain pip otherwise

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${NANOCHAT_VENV:-$root/.venv}"
extras="${NANOCHAT_EXTRAS:-dev}"
stamp="$venv/nanochat-installed"

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1
}

fail() {
    echo "Error: $1" >&2
    echo "  hint: $2" >&2
    exit 2
}

make_venv() {
    local candidate
    for candidate in "${NANOCHAT_PYTHON:-python3}" python3 python python3.13 python3.12 python3.11; do
        if new_enough "$candidate"; then
            echo "setup: new virtual environment $venv with $("$candidate" --version)"
            "$candidate" -m venv "$venv" || fail "cannot make a virtual environment in $venv" \
                "on Debian and Ubuntu: apt-get install python3-venv; or choose a folder with NANOCHAT_VENV"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, found $(python3 --version 2>&1 || echo none)" \
        "install a newer one, then: NANOCHAT_PYTHON=python3.12 bash runs/test.sh"
}

# a venv that was cut off while being made has no working python or no pip
"$venv/bin/python" -m pip --version > /dev/null 2>&1 || make_venv
PYTHON="$venv/bin/python"
new_enough "$PYTHON" || fail "$venv holds $("$PYTHON" --version 2>&1), Python 3.11 or newer is needed" \
    "delete that folder, or choose another with NANOCHAT_VENV"

wanted="$root $extras $(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)"
if [ "$(cat "$stamp" 2> /dev/null)" != "$wanted" ]; then
    echo "setup: installing (first time: a few minutes, 1 to 5 GB depending on the torch build)"
    rm -f "$stamp"
    if [ "${NANOCHAT_UV:-0}" = 1 ] && command -v uv > /dev/null; then
        # uv does not read pip's own variable for folders with wheels
        [ -n "${PIP_FIND_LINKS:-}" ] && export UV_FIND_LINKS="${UV_FIND_LINKS:-$PIP_FIND_LINKS}"
        uv pip install --quiet --python "$PYTHON" -c "$root/constraints.txt" -e "$root[$extras]"
    else
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" -e "$root[$extras]"
    fi || fail "the installation did not finish" "see the lines above; run this again once the cause is gone"
    "$PYTHON" -c 'import torch; print(f"setup: torch {torch.__version__}, " + ("GPU" if torch.cuda.is_available() else "CPU"))'
    echo "$wanted" > "$stamp"
fi
export PYTHON
