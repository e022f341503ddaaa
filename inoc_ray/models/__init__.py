"""A base model on disk: its configuration, its tokenizer, its chat template."""
