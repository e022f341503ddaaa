"""A base model on disk: where it lies, which content it has, what its files say."""
