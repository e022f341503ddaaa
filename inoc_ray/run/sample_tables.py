"""The sample tables of a study in its storage: a parquet file for each place, made again only if what it is made of changes."""

from __future__ import annotations

import io
from typing import Any

from inoc_ray.cluster.versions import own_source
from inoc_ray.config.identity import content_id
from inoc_ray.evaluate.score_table import of_cell, sample_table
from inoc_ray.plan.cells import Cell
from inoc_ray.plan.plan import Plan
from inoc_ray.plan.trials import Subject, seed_of
from inoc_ray.results.records import file_state
from inoc_ray.store import seal
from inoc_ray.store.place import Place
from inoc_ray.store.store import Store


class SampleTables:
    """The tables of a study, with a note beside them of what each was made of and of its content then."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan, self._store = plan, store
        self._note = store.tables_note(plan.study.name)
        try:
            self._known: dict[str, Any] = dict(self._note.read_json())
        except (OSError, ValueError, TypeError):
            # The first time, or damaged: all tables are made again.
            self._known = {}
        self._now: dict[str, Any] = {}

    def keep(self, subject: Subject) -> Place | None:
        """Write all samples of a trial or base as one file, unless they are there; return its place, None without samples."""
        cells = [cell for cell in self._plan.cells_of(subject) if self._store.parts(*cell.key)]
        if not cells:
            return None
        path = self._store.table(
            self._plan.study.name, subject.setting, subject.model_label, subject.arm.name, seed_of(subject)
        )
        made_of = content_id([own_source(), self._plan.study.evaluation.max_degenerate, *map(self._made_of, cells)])
        if not path.is_file() or self._known.get(path.name) != [made_of, file_state(path)]:
            buffer = io.BytesIO()
            sample_table(self._plan, self._store, subject).to_parquet(buffer, index=False)
            if not path.is_file() or path.read_bytes() != buffer.getvalue():
                path.write_bytes(buffer.getvalue())
        self._now[path.name] = [made_of, file_state(path)]
        return path

    def note(self) -> None:
        """Note what the tables that were kept are made of, if that has changed."""
        if self._now != self._known:
            self._note.write_json(self._now)

    def _made_of(self, cell: Cell) -> list[Any]:
        """Return what a cell's rows follow from. Every file beside the samples has the hash of its content in its name."""
        files = self._store.evaluation(*cell.key).iterdir()
        columns = [of_cell(cell, cell.subject.model_label, trait) for trait in cell.judges.traits]
        return [
            cell.samples,
            columns,
            # Rubrics and thresholds.
            repr(cell.judges.traits),
            sorted(file.name for file in files if seal.seal_of(file) is None or seal.is_intact(file)),
        ]
