"""Judging models: how they are asked, and how an answer becomes a number."""
