"""deploykit: one YAML recipe in, one healthy OpenAI-compatible endpoint out."""

__version__ = "0.1.0"
