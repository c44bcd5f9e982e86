"""Published hybrid checkpoints in and out: folders of transformers to the native model and back, exact both ways."""

from nanochat.interop.exporting import export
from nanochat.interop.importing import load

__all__ = ["export", "load"]
