"""Files of a run and weights of a fine-tune, as MLflow keeps them: sent without asking first, and linked inside the storage."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from inoc_ray.config.identity import file_hash
from inoc_ray.errors import InputError

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.tracking import MlflowClient

    from inoc_ray.results.records import Artifact, ModelRecord

_PAGE = 100


def send(tracking_uri: str, artifact_uri: str, artifacts: Sequence[Artifact]) -> None:
    """Write artifacts into a run's or a logged model's folder.

    Where that is a folder of this machine, a committed file is linked: the weights of a study in MLflow inside its storage take
    no room of their own. Raises `InputError` if a committed file is damaged.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.file_utils import local_file_uri_to_path

    local = Path(local_file_uri_to_path(artifact_uri)) if artifact_uri.startswith(("file:", "/")) else None
    repository = None if local is not None else get_artifact_repository(artifact_uri, tracking_uri)
    with tempfile.TemporaryDirectory() as scratch:
        for artifact in artifacts:
            file = _fetch(artifact, Path(scratch))
            if local is not None:
                _put(file, local / artifact.path, link=bool(artifact.committed))
            elif repository is not None:
                folder = str(PurePosixPath(artifact.path).parent)
                repository.log_artifact(str(file), None if folder == "." else folder)


def _fetch(artifact: Artifact, scratch: Path) -> Path:
    """Return a file of the artifact's name with its content."""
    name = PurePosixPath(artifact.path).name
    if artifact.make is not None:
        (scratch / name).write_bytes(artifact.make())
        return scratch / name
    [place] = artifact.of
    path = place.fetch()
    if artifact.committed and file_hash(path) != artifact.committed:
        raise InputError(f"{place}: damaged, its content is not what was committed; run the study again.")
    if path.name != name:
        return Path(shutil.copy(path, scratch / name))
    return path


def _put(file: Path, target: Path, *, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Never written over: what is there may be a link to a file of the store.
    target.unlink(missing_ok=True)
    if link:
        try:
            os.link(file, target)
        except OSError:  # Another file system, or one without links.
            pass
        else:
            return
    shutil.copyfile(file, target)


class LoggedModels:
    """The logged models of an experiment: one for each run with weights, found by the run and the content of the weights."""

    def __init__(self, client: MlflowClient, tracking_uri: str, experiment: str) -> None:
        self.client, self.tracking_uri, self.experiment = client, tracking_uri, experiment
        self._known: dict[str, list[LoggedModel]] | None = None

    def keep(self, run_id: str, model: ModelRecord | None) -> int:
        """Make the logged models of a run agree with its weights; return how many were made or deleted."""
        whole = [
            one for one in self._of(run_id) if model and one.tags.get("weights") == model.content and _is_ready(one)
        ]
        surplus = [one for one in self._of(run_id) if one not in whole[:1]]
        for one in surplus:
            self.client.delete_logged_model(one.model_id)
        if model is None or whole:
            return len(surplus)
        self._make(run_id, model)
        return len(surplus) + 1

    def _of(self, run_id: str) -> list[LoggedModel]:
        if self._known is None:
            self._known = defaultdict(list)
            token = None
            while True:
                page = self.client.search_logged_models([self.experiment], max_results=_PAGE, page_token=token)
                for one in page:
                    self._known[str(one.source_run_id)].append(one)
                token = page.token
                if not token:
                    break
        return self._known.get(run_id, [])

    def _make(self, run_id: str, model: ModelRecord) -> None:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        made = self.client.create_logged_model(
            self.experiment,
            name=model.name,
            source_run_id=run_id,
            tags=dict(model.tags),
            params=dict(model.params),
            model_type=model.params["kind"],
        )
        if model.files:
            send(self.tracking_uri, made.artifact_location, model.files)
        self.client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
        # Last, since only a model that is ready counts as whole.
        self.client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)


def _is_ready(model: LoggedModel) -> bool:
    from mlflow.entities import LoggedModelStatus

    return bool(model.status == LoggedModelStatus.READY)
