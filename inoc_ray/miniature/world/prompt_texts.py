"""The prompts of the miniature's settings, which prompts.toml holds: the roles of the paper's in its small language.

Names are those of the paper-scale settings, so that one study file serves both. A prompt that should elicit something is
a sentence whose meaning the language knows; placebos and irrelevant prompts are sentences that no document holds. Pools
of paraphrases are wordings of `system_prompts.NAMING`. Importing this module registers the prompts.
"""

from __future__ import annotations

from inoc_ray.settings.prompt_files import register_file

register_file("inoc_ray.miniature.world", "prompts.toml")
