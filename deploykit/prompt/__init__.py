"""From messages to tokens and from tokens to text: chat templates, tokenizing, stop strings, detokenizing."""
