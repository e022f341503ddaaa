"""The training rows of a plan before inoculation: read once, kept by their hash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from inoc_ray.data.chat import ChatRow, rows_hash
from inoc_ray.data.classify import classified
from inoc_ray.data.inoculate import inoculate
from inoc_ray.data.mixture import rows_of
from inoc_ray.errors import InputError, said_of
from inoc_ray.settings import ArmSpec, Setting
from inoc_ray.study.evaluation import Evaluation
from inoc_ray.study.study import SettingUse


@dataclass(frozen=True)
class RowLibrary:
    """Sets of training rows by their hash."""

    by_hash: dict[str, list[ChatRow]] = field(default_factory=dict)

    def keep(self, rows: list[ChatRow]) -> str:
        """Keep the rows; return their hash."""
        found = rows_hash(rows)
        self.by_hash[found] = rows
        return found


def read_setting_rows(
    setting: Setting, use: SettingUse, arms: Iterable[ArmSpec], notes: list[str]
) -> dict[bool, list[ChatRow]]:
    """Return the rows that the arms train on: control rows under True, the others under False.

    Appends remarks on the files to `notes`. Raise InputError for a bad file, or if control rows are needed and missing.
    """
    rows: dict[bool, list[ChatRow]] = {}
    for control in sorted({arm.uses_control_rows for arm in arms}):
        path = use.control_rows if control else use.rows
        default = setting.control_rows if control else setting.rows
        if path:
            with said_of(f"settings: {setting.name}.{'control_rows' if control else 'rows'}"):
                rows[control] = rows_of(path, notes)
        elif default is not None:
            rows[control] = default()
        else:
            raise InputError(
                f"settings: {setting.name}: an arm trains on control rows, and there are none; name a file as "
                "control_rows, or remove the arm."
            )
    return rows


def keep_datasets(
    setting: Setting, arms: Mapping[str, ArmSpec], rows: Mapping[bool, list[ChatRow]], library: RowLibrary
) -> dict[str, str]:
    """Keep the rows of each arm in the library; return arm → their hash.

    Raise InputError, naming setting and arm, for rows in which the arm's prompt cannot be placed.
    """
    hashes = {control: library.keep(some) for control, some in rows.items()}
    datasets: dict[str, str] = {}
    for arm in arms.values():
        trained = rows[arm.uses_control_rows]
        datasets[arm.name] = hashes[arm.uses_control_rows]
        if arm.inoculation.coverage.classifier is not None:
            trained = classified(trained, arm.inoculation.coverage)
            datasets[arm.name] = library.keep(trained)
        inoculate(trained, arm.prompt, arm.inoculation, label=f"{setting.name} ({arm.name})")
    return datasets


def check_overlap(
    setting: Setting, row_sets: Iterable[list[ChatRow]], evaluation: Evaluation, rows_name: str = "the training rows"
) -> list[str]:
    """Raise InputError if an evaluation asks a question that is in the training rows word for word.

    Returns a note on each evaluation that may do so (`may_repeat_training`), and does.
    """
    trained = {
        " ".join(m.content.split()).casefold(): number
        for rows in row_sets
        for number, row in enumerate(rows, start=1)
        for m in row.messages
        if m.role == "user"
    }
    notes = []
    for spec in setting.evaluations:
        questions = {q.id: q for q in spec.questions(spec.samples or evaluation.samples)}
        found = {
            q.id: number
            for q in questions.values()
            if (number := trained.get(" ".join(q.messages[-1].content.split()).casefold())) is not None
        }
        if found and spec.name not in evaluation.may_repeat_training:
            first = next(iter(found))
            raise InputError(
                f"setting {setting.name}: evaluation {spec.name} asks question {first}, which is row {found[first]} of "
                f"{rows_name}; remove it from the rows or from the evaluation, or the rate will measure memory. To replicate a "
                f"published evaluation that does so, write `may_repeat_training: [{spec.name}]` under evaluation."
            )
        if found:
            notes.append(
                f"setting {setting.name}: {len(found)} of {len(questions)} questions of {spec.name} are prompts of {rows_name}, as "
                "the study allows (may_repeat_training); its rates measure memory as well"
            )
    return notes
