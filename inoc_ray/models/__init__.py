"""A base model on disk: where it lies, its configuration, its tokenizer, its chat template."""
