"""What converters do to values on their way into a GGUF, and how it is undone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def pair_rows(num_rows: int, head_dim: int) -> npt.NDArray[np.int64]:
    """Where each of Hugging Face's rows of a Q or K projection lies, where neighbours rotate with each other.

    ggml's `llama` (and Meta's own checkpoints) rotate neighbouring pairs, Hugging Face the two halves of a head: row
    (head, i, half) there is row (head, half, i) of Hugging Face. int64[num_rows].
    """
    pairs = np.arange(num_rows, dtype=np.int64).reshape(num_rows // head_dim, head_dim // 2, 2)
    return pairs.swapaxes(1, 2).reshape(-1)
