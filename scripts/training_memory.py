"""Out of memory: an error that names the flags that help, in the order in which they should be tried."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from nanochat.errors import UserError

# words of torch's allocators that are no class of their own: CPU allocators on Linux and Windows, older accelerators
_WORDS = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on a GPU or on the CPU."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


@contextlib.contextmanager
def name_helpful_flags(config: Any, *, is_saved: Callable[[], bool]) -> Iterator[None]:
    """Turn out of memory into a UserError whose hint names the flags that help and are left to turn, and, where the run
    has saved a checkpoint, how to go on from it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        saved = "; add --resume true to go on from the last checkpoint" if is_saved() else ""
        # nothing of the error's traceback may hold on to the tensors that did not fit
        raise UserError(f"Out of memory: {(str(error).splitlines() or ['no memory left'])[0]:.150}",
                        hint=f"one after the other until it fits: {', '.join(helpful_flags(config))}{saved}") from None


def helpful_flags(config: Any) -> list[str]:
    """Flags that lower the need for memory, cheapest first, with the value to try next."""
    flags = []
    rows = config.device_batch_size
    if rows > 1:
        more = config.grad_accum_steps * rows // max(1, rows // 2)
        flags.append(f"--device_batch_size {max(1, rows // 2)} (and --grad_accum_steps {more} for the same step)")
    if getattr(config, "max_seq_len", 0) > 256:
        flags.append(f"--max_seq_len {config.max_seq_len // 2}")
    if getattr(config, "sequence_len", 0) > 256:
        flags.append(f"--sequence_len {config.sequence_len // 2}")
    if getattr(config, "top_k", 0) > 1:
        flags.append(f"--top_k {min(3, config.top_k - 1)}")
    length = getattr(config, "max_doc_length", None)
    if length is not None and (length == 0 or length > 100):
        flags.append(f"--max_doc_length {300 if length == 0 or length > 300 else length // 2}")
    if getattr(config, "lora_rank", None) == 0:
        flags.append("--lora_rank 16")
    if config.activation_checkpointing != "true":
        flags.append("--activation_checkpointing true")
    return flags or ["a smaller model"]
