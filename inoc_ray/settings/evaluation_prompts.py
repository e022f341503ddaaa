"""The evaluation prompts of a setting or a file, for holding training rows against them."""

from __future__ import annotations

from pathlib import Path

from inoc_ray import settings
from inoc_ray.config.reading import check_no_address
from inoc_ray.data.overlap import prompts_in_file
from inoc_ray.errors import InputError

SETTING_QUESTIONS = 100
"""Questions of each evaluation that a setting is held against: the default number of samples of a study."""


def evaluation_prompts(source: str) -> list[tuple[str, str]]:
    """(name, text) of the prompts in a JSONL file ({"prompt"}, {"question"} or {"messages"}) or of a setting's questions.

    Raises InputError for a file that cannot be read so, for a name that is neither a file nor a setting, and for a setting
    whose questions come from files of the user's: "no overlap" would say nothing about them.
    """
    check_no_address(source, "download it and give the file")
    path = Path(source)
    if not path.exists() and path.suffix not in (".jsonl", ".json"):
        setting = settings.get(source)
        unasked = [spec for spec in setting.evaluations if spec.published]
        if unasked:
            raise InputError(
                f"{source}: the questions of {' and '.join(spec.name for spec in unasked)} come from files that do not ship "
                f"with the package; give those files in its place: --against QUESTIONS.jsonl. What they hold: "
                f"{'; '.join(f'{spec.name}: {spec.published}' for spec in unasked)}."
            )
        return [
            (f"{source} {spec.name} {question.id}", question.messages[-1].content)
            for spec in setting.evaluations
            for question in spec.questions(SETTING_QUESTIONS)
        ]
    return prompts_in_file(path)
