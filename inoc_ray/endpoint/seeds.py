"""How a list of prompts carries a sampling seed for each of them, beside the one of the whole list that OpenAI's API has."""

SEEDS = "seeds"
"""Key in `vllm_xargs` of a request: one whole number a prompt."""
SEEDS_HEADER = "x-prompt-seeds"
"""Response header of an endpoint that understands SEEDS: any other server would silently ignore it."""
