"""`python -m nanochat`: the command `nanochat`, where it is not on the path."""

import sys

from nanochat.cli import console

if __name__ == "__main__":
    sys.exit(console())
