"""One question to an MLflow tracking server, with MLflow's own login and TLS, answered or refused within seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inoc_ray.errors import InputError, hide_password
from inoc_ray.results.records import FIRST_RUN

if TYPE_CHECKING:
    import requests
    from mlflow.utils.rest_utils import MlflowHostCreds

    from inoc_ray.results.records import StudyRecord

EXPERIMENT_KIND = ("mlflow.experimentKind", "custom_model_development")
"""A tag of each experiment: without it the UI shows an experiment as one about prompts and traces, and hides its runs."""
IN_THE_TRASH = "the MLflow experiment {name!r} is in the trash: restore it, or remove it for good (mlflow gc)"
OF_ANOTHER_STORAGE = (
    "the MLflow experiment {name!r} has the results of another study of this name, in {other}: rename one of them. If that storage "
    "was moved to {storage}, set the tag `storage` of the run {name!r} there to {storage}."
)
_LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
_SECONDS = 10.0


def is_server(tracking_uri: str) -> bool:
    """Return whether a tracking URI is the address of a server."""
    return tracking_uri.strip().startswith(("http://", "https://"))


def check_server(tracking_uri: str, timeout: float = 5.0) -> None:
    """Check that a server answers within `timeout` seconds, if `tracking_uri` is an HTTP address. Raises `InputError` if not.

    MLflow's own client would try for minutes. Any answer counts, even a refusal.
    """
    if is_server(tracking_uri):
        _ask(tracking_uri, "/health", "GET", timeout=timeout)


def check_access(tracking_uri: str, experiment: str | None, study: StudyRecord | None = None) -> None:
    """Check that a server takes the login of the environment, and lets it write to the experiment of this name.

    Nothing new is written: a tag that an existing experiment has, or should have, is set again. None checks the login alone.
    study: must be the one whose runs the experiment has, if it has any. Raises `InputError`.
    """
    shown = hide_password(tracking_uri)
    if experiment is None:
        _expect(tracking_uri, _ask(tracking_uri, "/api/2.0/mlflow/experiments/search", json={"max_results": 1}), "")
        return
    found = _ask(tracking_uri, "/api/2.0/mlflow/experiments/get-by-name", "GET", params={"experiment_name": experiment})
    if found.status_code == 404 and _answer(found).get("error_code") == "RESOURCE_DOES_NOT_EXIST":
        # The server looks at the permission first, and then refuses a name that is empty.
        made = _ask(tracking_uri, "/api/2.0/mlflow/experiments/create", json={"name": ""})
        if made.status_code != 400:
            _expect(tracking_uri, made, "create experiments")
        return
    _expect(tracking_uri, found, f"read the experiment {experiment!r}")
    known = _answer(found).get("experiment")
    if not isinstance(known, dict) or "experiment_id" not in known:
        raise InputError(f"tracking_uri: {shown} does not answer like an MLflow tracking server; correct the address.")
    if known.get("lifecycle_stage", "active") != "active":
        raise InputError(IN_THE_TRASH.format(name=experiment))
    key, kind = EXPERIMENT_KIND
    kind = next((tag["value"] for tag in known.get("tags", []) if tag["key"] == key), kind)
    tag = {"experiment_id": known["experiment_id"], "key": key, "value": kind}
    written = _ask(tracking_uri, "/api/2.0/mlflow/experiments/set-experiment-tag", json=tag)
    _expect(tracking_uri, written, f"write to the experiment {experiment!r}")
    if study is not None:
        asked = {"experiment_ids": [known["experiment_id"]], "filter": f"tags.study_run = '{study.name}'"}
        found = _ask(tracking_uri, "/api/2.0/mlflow/runs/search", json=asked)
        _expect(tracking_uri, found, f"read the runs of the experiment {experiment!r}")
        for run in _answer(found).get("runs", []):
            tags = {tag["key"]: tag["value"] for tag in run.get("data", {}).get("tags", [])}
            check_storage_of_run(study, tags, int(run.get("info", {}).get("start_time", 0)))


def check_storage_of_run(study: StudyRecord, tags: Mapping[str, str], started_at: int) -> None:
    """Raise InputError if a study's run in MLflow is of another storage, whose runs would be deleted for those of this one.

    A storage that was moved has the time of the study's first run with it. tags, started_at: of the run; earlier versions gave
    it no tag with that time, but mostly began it then.
    """
    storage, other = study.tags.get("storage"), tags.get("storage")
    if storage is None or other is None or storage == other:
        return
    if study.created_at and str(study.created_at) == tags.get(FIRST_RUN, str(started_at)):
        return
    raise InputError(OF_ANOTHER_STORAGE.format(name=study.name, other=other, storage=storage))


def _refuse_login_in_address(tracking_uri: str) -> None:
    # The address is written into the storage, messages and MLflow's own log.
    if "@" in tracking_uri.partition("://")[2].partition("/")[0]:
        raise InputError(
            f"tracking_uri: {hide_password(tracking_uri)} holds a login, which would be kept wherever the address is: leave it "
            f"out, and export {_LOGIN} where the command runs."
        )


def _ask(
    tracking_uri: str, endpoint: str, method: str = "POST", *, timeout: float = _SECONDS, **sent: Mapping[str, Any]
) -> requests.Response:
    """Return the answer of a server, whatever its status; `InputError` if there is none in time."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    _refuse_login_in_address(tracking_uri)
    uri = tracking_uri.strip()
    try:
        return http_request(
            get_default_host_creds(uri),
            endpoint,
            method,
            max_retries=0,
            retry_codes=(),
            timeout=timeout,
            raise_on_status=False,
            **sent,
        )
    except (MlflowException, OSError, ValueError) as error:
        raise InputError(
            f"no MLflow tracking server answers at {hide_password(uri)} ({_cause(error)}); start it, or correct the tracking URI"
        ) from None


def _cause(error: BaseException) -> str:
    """Return the first cause of an error in one line: what the system said, without the layers of clients around it."""
    import ssl

    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    hint = (
        "; MLFLOW_TRACKING_SERVER_CERT_PATH names a certificate to trust"
        if isinstance(error, ssl.SSLCertVerificationError)
        else ""
    )
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return hide_password(text) + hint


def _answer(response: requests.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _expect(tracking_uri: str, response: requests.Response, what: str) -> None:
    """Raise InputError unless the server did what it was asked for. what: that which a refusal forbids."""
    if response.status_code == 200:
        return
    from mlflow.utils.credentials import get_default_host_creds

    shown, login = hide_password(tracking_uri.strip()), get_default_host_creds(tracking_uri.strip())
    if response.status_code == 401:
        if not _logs_in(login):
            raise InputError(f"tracking_uri: {shown} wants a login (401): export {_LOGIN} where the command runs.")
        raise InputError(f"tracking_uri: {shown} refuses {_who(login)} (401): check {_LOGIN}.")
    if response.status_code == 403:
        if "Invalid Host header" in response.text:
            raise InputError(
                f"tracking_uri: {shown} does not answer to this host name (403): start the server with it among its "
                "--allowed-hosts."
            )
        raise InputError(
            f"tracking_uri: {_who(login)} may not {what or 'read'} at {shown} (403): have an administrator grant EDIT, or give the "
            "study another name."
        )
    raise InputError(
        f"tracking_uri: {shown} does not answer like an MLflow tracking server ({response.status_code} {response.reason}); check "
        "its log, or correct the address."
    )


def _logs_in(login: MlflowHostCreds) -> bool:
    return bool((login.username and login.password) or login.token or login.auth or login.aws_sigv4)


def _who(login: MlflowHostCreds) -> str:
    if login.username and login.password:
        return f"the user {login.username!r}"
    return "the token" if login.token else "the login" if _logs_in(login) else "nobody without a login"
