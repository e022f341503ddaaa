"""The results on disk: their places, atomic commits, and hashes that are checked on use."""
