"""The names under which a list of prompts carries one sampling seed each, where OpenAI's API has one for the list."""

SEEDS = "seeds"
"""Key in a request's `vllm_xargs`: one integer a prompt."""
SEEDS_HEADER = "x-prompt-seeds"
"""Response header of an endpoint that understands SEEDS; other servers silently ignore them."""
