"""The truth on disk: where everything lies, committed at once or not at all, with hashes that are checked on use."""
