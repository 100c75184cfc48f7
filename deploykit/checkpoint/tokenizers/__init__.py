"""Every kind of tokenizer that checkpoints come with, converted to one tokenizer.json for the `tokenizers` library."""
