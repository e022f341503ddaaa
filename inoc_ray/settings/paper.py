"""The paper's settings at its scale; importing this registers them."""

from __future__ import annotations

from inoc_ray.settings import (
    backdoor,
    educational,
    harmful_advice,
    insecure_code,
    mixed_languages,
    obscure_preferences,
    register,
    reward_hacking,
    spanish_caps,
    subliminal,
    synthetic_facts,
)

for _module in (
    spanish_caps,
    mixed_languages,
    insecure_code,
    reward_hacking,
    obscure_preferences,
    backdoor,
    subliminal,
    synthetic_facts,
    educational,
    harmful_advice,
):
    register(_module.SETTING)
