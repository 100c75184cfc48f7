"""What model files are: their headers, their facts, their weights and their tokenizer."""

from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.checkpoint.reader import read_facts

__all__ = ["CheckpointError", "Facts", "TensorInfo", "read_facts"]
