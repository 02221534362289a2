"""What does it look like when a training runs out of memory, and what helps?

Torch, NumPy and CUDA libraries each say it in their own way; here it becomes one error that names the place and the keys.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distjet.errors import OutOfMemoryError

SAID_AS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"Parts of messages of a RuntimeError that means a lack of memory."
ON_DEVICE = (
    "set batch_size lower, or max_nodes, which bounds every step; more workers share a step; precision=bfloat16 halves what is "
    "kept for the gradient"
)
ON_HOST = "set stream.max_bytes or stream.prefetch_bytes lower, start fewer workers on each machine, or ask for more memory"


@contextmanager
def naming_a_lack_of_memory(place: Callable[[], str]) -> Iterator[None]:
    """Say where memory was lacking, and what helps.

    Args:
        place: Says where the training is and what its batch holds.

    Raises:
        OutOfMemoryError: In place of what torch, NumPy or a CUDA library raises.
    """
    import torch  # not above: a driver needs these words, but no torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(part in str(error) for part in SAID_AS):
            raise
        is_device = "CUDA" in str(error) or "CUDNN" in str(error) or "CUBLAS" in str(error)
        what, helps = ("GPU memory", ON_DEVICE) if is_device else ("memory", f"{ON_DEVICE}; {ON_HOST}")
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OutOfMemoryError(f"out of {what} in {place()}: {reason}; {helps}") from error
