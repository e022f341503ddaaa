"""Serving: one vLLM engine behind Ray Serve, for the base model and every adapter of a study."""
