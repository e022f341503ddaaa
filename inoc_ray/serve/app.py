"""One engine behind an OpenAI-compatible endpoint: started, and taken down."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from inoc_ray import stopping
from inoc_ray.cluster import keeper as keepers
from inoc_ray.cluster import nodes
from inoc_ray.cluster.connect import owns_cluster
from inoc_ray.cluster.fit import check_serving, engines_at_once
from inoc_ray.console import Status, say
from inoc_ray.errors import InputError, TrialError
from inoc_ray.serve.deployment import application, bundles
from inoc_ray.serve.owner import note_engine, reclaim, serve_client, serve_runs, take_down
from inoc_ray.serve.spec import APP, LOOPBACK, ServeSpec, check_spec
from inoc_ray.serve.start_failure import marked_cause
from inoc_ray.study.resources import EngineResources

START_TIMEOUT_S = 1800.0
_POLL_S = 0.25
_REPORT_EVERY_S = 5.0
_PROXY_TRIES = 4
_SERVE_ENDS_S = 60.0
"""How long a start waits for a Serve that its last command is shutting down."""
_SERVE_ENDS_POLL_S = 1.0
EVERY_ADDRESS = "0.0.0.0"
LEAVE_SECONDS = 1.5
"""What a command that is stopped needs to leave the cluster."""
_SPREAD = {"RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0", "RAY_SERVE_PROXY_PREFER_LOCAL_AZ_ROUTING": "0"}
"""Variables of Serve's controller, which its proxy takes over: by default the proxy gives every request to the replicas on its own
node until they turn requests away, and those on other nodes would have nothing to do."""
_changing_serve = threading.RLock()
"""Held by the thread that starts an engine, or takes one down and perhaps Serve with it."""
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A running endpoint. `base_url` ends in /v1, as the `openai` client expects."""

    base_url: str
    model_id: str
    api_key: str | None
    name: str
    keeper: Any = None
    """What takes it down if this command cannot; None on a private cluster."""
    window: int | None = None
    """The window in tokens: prompt and answer."""
    replicas: int = 1
    """Engines that answer behind the address, once all have started."""


def _check_resources(spec: ServeSpec) -> None:
    """Raise InputError unless the replica fits on a node that is up, or that the autoscaler may start."""
    check_serving(_resources_of(spec), nodes.capacity())


def _resources_of(spec: ServeSpec) -> EngineResources:
    return EngineResources(serve_cpus=spec.cpus, serve_gpus=spec.gpus)


def nothing() -> None:
    """Do nothing about an engine that waits for room."""


def start(
    spec: ServeSpec,
    note: Callable[[str], None] = say,
    timeout_s: float = START_TIMEOUT_S,
    short_of_room: Callable[[], None] = nothing,
) -> Endpoint:
    """Start the engine on the Ray cluster that this process is connected to, and wait until it answers.

    `note` gets a line every few seconds that says what the start is waiting for, and for how long; `short_of_room` is called as
    often while it waits for room on the cluster. Raises `InputError` for a spec
    that cannot work, and `TrialError` with the engine's own message if it does not start; nothing is left running then.
    """
    check_spec(spec)
    spec = _with_end_of_turn(spec)
    import ray

    if not ray.is_initialized():
        raise RuntimeError("start() needs a Ray cluster: call ray.init() first")
    keepers.wait_for_keepers()
    reclaim()
    _check_resources(spec)
    if spec.replicas > 1:
        spec = replace(spec, replicas=min(spec.replicas, engines_at_once(_resources_of(spec), nodes.capacity())))
    began = time.monotonic()
    # Its notes on connecting to itself would interrupt the display of progress. Its import sets the level, so that comes first.
    import ray.serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # The public endpoint is at the root; every other engine belongs to one run, and studies of one name may run side by side.
    name = f"{spec.name}-{ray.get_runtime_context().get_job_id()}"
    route = "/" if spec.name == APP else f"/{name}"
    spec = replace(spec, name=name)
    client = serve_client()
    if client is not None:
        # Unless it is shut down at this moment.
        with contextlib.suppress(ray.exceptions.RayActorError):
            _check_route(client, route)
    spec = _reachable(spec, spec.host if client is None else client.http_config.host)
    # A private cluster ends with this command, and everything on it; nobody knows the ports of its exporter.
    spec = replace(spec, metrics=not owns_cluster())
    keeper = None if owns_cluster() else keepers.start(reclaim)
    try:
        with _changing_serve:
            note_engine(name)
            _start_application(spec, route, note)
        base_url = f"http://{_host(spec.host)}:{serve_client().http_config.port}{route.rstrip('/')}/v1"
        window = _wait(spec, base_url, began=began, timeout_s=timeout_s, note=note, short_of_room=short_of_room)
    except BaseException:
        _take_down(spec.name, keeper)
        raise
    seconds = time.monotonic() - began
    endpoint = Endpoint(
        base_url=base_url,
        model_id=spec.model_id,
        api_key=spec.api_key,
        name=spec.name,
        keeper=keeper,
        window=window,
        replicas=spec.replicas,
    )
    of = f" (the first of {spec.replicas} engines)" if spec.replicas > 1 else ""
    note(
        f"serve: {spec.model_id} answers at {endpoint.base_url} after {seconds:.0f} s, with a window of {window} tokens{of}"
    )
    return endpoint


def _start_application(spec: ServeSpec, route: str, note: Callable[[str], None]) -> None:
    """Start Serve, if none runs, and the application of an engine on it."""
    import ray

    end = time.monotonic() + _SERVE_ENDS_S
    while True:
        # A Serve that ends takes no application; when it is gone, this command starts one.
        with contextlib.suppress(ray.exceptions.RayActorError):
            if serve_client() is None:
                note("serve: starting Ray Serve")
                _start_serve(spec)
            if _deploy(spec, route):
                return
        if time.monotonic() > end:
            raise TrialError(
                f"Ray Serve of this cluster took no engine for {_SERVE_ENDS_S:.0f} s: it is being shut down"
            )
        note("serve: waiting until another command's Ray Serve is shut down")
        time.sleep(_SERVE_ENDS_POLL_S)


def _with_end_of_turn(spec: ServeSpec) -> ServeSpec:
    """Return the spec with the model's end of turn among its stops, if vLLM would not stop there by itself.

    The chat template of a base model often ends a turn with something other than an end-of-text token; every answer would then
    run to its limit.
    """
    from inoc_ray.models.encoding import stops_of, template_of
    from inoc_ray.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(spec.model))
    ids, texts = stops_of(spec.model, tokenizer)
    if not ids and not texts:
        return spec
    say(
        f"serve: {spec.model_id} ends a turn with {template_of(tokenizer).end_of_turn!r}, which its configuration does not list "
        "as an end-of-text token (eos_token_id); answers stop there"
    )
    return replace(spec, stop_token_ids=(*spec.stop_token_ids, *ids), stop=(*spec.stop, *texts))


def stop(endpoint: Endpoint) -> None:
    """Take the endpoint down, and Ray Serve too if it is ours and nothing else is on it. Does nothing if it is gone already."""
    _take_down(endpoint.name, endpoint.keeper)


@contextlib.contextmanager
def serving(spec: ServeSpec, short_of_room: Callable[[], None] = nothing) -> Iterator[Endpoint]:
    """Serve `spec` while a `with` block runs, and show the progress of its start. short_of_room: as in `start`."""
    with Status() as waiting:
        endpoint = start(spec, waiting.note, short_of_room=short_of_room)
    try:
        with past_proxies(endpoint.base_url):
            yield endpoint
    finally:
        stop(endpoint)


@contextlib.contextmanager
def past_proxies(url: str) -> Iterator[None]:
    """Keep the proxy that an environment names, if any, from coming between this machine and its cluster, for the block.

    In the environment itself, since processes that are started in the block ask the endpoint, too. Several threads may be in such
    a block: the first to come keeps what was there, and the last to go restores it.
    """
    with _past_proxies:
        if not _hosts:
            _before.update({name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")})
        _hosts.append(urllib.parse.urlsplit(url).hostname or "")
        _pass_hosts()
    try:
        yield
    finally:
        with _past_proxies:
            _hosts.remove(urllib.parse.urlsplit(url).hostname or "")
            _pass_hosts()


_past_proxies = threading.Lock()
_hosts: list[str] = []
_before: dict[str, str | None] = {}


def _pass_hosts() -> None:
    for name, value in _before.items():
        passed = ",".join(filter(None, [value, *dict.fromkeys(_hosts)]))
        if passed or value is not None:
            os.environ[name] = passed
        else:
            os.environ.pop(name, None)


def _check_route(client: Any, route: str) -> None:
    """Raise InputError if an application of this Serve has the route."""
    for name, there in client.get_serve_details()["applications"].items():
        if there["route_prefix"] == route and there["status"] != "DELETING":
            raise InputError(
                f"another application, {name!r}, runs on this cluster already and answers at {route}: stop it, or wait until its "
                "command ends"
            )


def _deploy(spec: ServeSpec, route: str) -> bool:
    """Start the application of an engine; return False if Serve is being shut down, and ignored that."""
    from ray import serve

    target = serve.RunTarget(target=application(spec), name=spec.name, route_prefix=route, logging_config=_QUIET)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    return spec.name in serve.status().applications


def _take_down(name: str, keeper: Any) -> None:
    """Take an engine down; when the command is being stopped, begin with it, and leave the rest to the engine's keeper.

    On a private cluster, which ends with the command, nothing is left to do then.
    """
    if not stopping.requested():
        with _changing_serve:
            take_down([name])
        if keeper is not None:
            keepers.release(keeper)
    elif keeper is not None:
        done = threading.Event()

        def end() -> None:
            # What fails here is the keeper's.
            with contextlib.suppress(Exception), _changing_serve:
                take_down([name])
                done.set()

        threading.Thread(target=end, daemon=True).start()
        if done.wait(max(0.0, stopping.seconds_left() - LEAVE_SECONDS)):
            keepers.release(keeper)


def check_running_serve() -> None:
    """Raise InputError if Ray Serve runs on the cluster already, and this process cannot reach what it serves."""
    if not nodes.on_head() and serve_runs() and (client := serve_client()) is not None:
        _check_reachable(client.http_config.host)


def check_key_for_running_serve(api_key: str | None) -> None:
    """Raise InputError if Ray Serve runs on the cluster already, open to the network, and requests are to carry no key."""
    if api_key is None and serve_runs() and (client := serve_client()) is not None:
        host = client.http_config.host
        if host not in LOOPBACK:
            raise InputError(
                f"Ray Serve runs on this cluster already, and listens on {host}, where others reach it; set INOC_RAY_API_KEY, or "
                "end what serves there"
            )


def _check_reachable(host: str | None) -> None:
    """host: that on which the proxy of a running Serve listens, on the head."""
    if host in LOOPBACK and not nodes.on_head():
        raise InputError(
            "Ray Serve runs on this cluster already, and listens on the head's loopback address alone, which this node cannot "
            "reach; run the command on the head, or end what serves there"
        )


def _reachable(spec: ServeSpec, host: str | None) -> ServeSpec:
    """Return the spec with the host on which Serve's proxy listens, on the head, and with a key if others can reach it there.

    host: what was asked for, or what a running Serve has. Raises InputError if this process cannot reach a running Serve.
    """
    if host in LOOPBACK and nodes.on_head():
        return replace(spec, host=host)
    if host in LOOPBACK:
        if serve_client() is not None:
            _check_reachable(host)
        host = _address_of_head()
    return replace(spec, host=host or EVERY_ADDRESS, api_key=spec.api_key or secrets.token_urlsafe(32))


def _host(listens: str) -> str:
    """Return the host at which this process reaches a proxy that listens on `listens` on the head."""
    if listens not in (EVERY_ADDRESS, "::"):
        return f"[{listens}]" if ":" in listens else listens
    return LOOPBACK[0] if nodes.on_head() else _address_of_head()


def _address_of_head() -> str:
    head = nodes.head_node()
    assert head is not None
    return str(head["NodeManagerAddress"])


def _start_serve(spec: ServeSpec) -> None:
    """Start Serve's controller and its proxy on the head node.

    Serve kills a proxy that is not ready within 5 s, as happens on a busy machine; so it is started up to _PROXY_TRIES times.
    """
    import ray
    from ray import serve

    http = {"host": spec.host, "port": spec.port or nodes.ask_head(_free_port, spec.host)}
    for tries_left in reversed(range(_PROXY_TRIES)):
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options=http,
                controller_options={"runtime_env": {"env_vars": _SPREAD}},
                logging_config=_QUIET,
            )
            return
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            if not tries_left:
                raise


def _wait(
    spec: ServeSpec,
    base_url: str,
    *,
    began: float,
    timeout_s: float,
    note: Callable[[str], None],
    short_of_room: Callable[[], None],
) -> int:
    """Wait until the endpoint answers, by its first replica; return its window in tokens.

    The others take requests when they have started: they may have to wait until a node has room, or is up.
    """
    from ray import serve

    reported = began
    while True:
        application = serve.status().applications.get(spec.name)
        if application is not None and _answers(application) and (window := _window(base_url, spec)):
            return window
        if application is not None and application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            reasons = [application.message, *(d.message for d in application.deployments.values())]
            text = "\n".join(filter(None, reasons))
            # The message has the cause alone; the caller logs the whole text from the chained error.
            raise TrialError(
                f"the engine of {spec.model_id} did not start: {marked_cause(text) or text}"
            ) from RuntimeError(text)
        now = time.monotonic()
        if now - began > timeout_s:
            raise TrialError(
                f"the engine of {spec.model_id} was not ready after {timeout_s:.0f} s; it waited for {_waiting_for(spec)}"
            )
        if now - reported >= _REPORT_EVERY_S:
            reported = now
            if _waits_for_room(spec):
                short_of_room()
            note(f"serve: waiting for {_waiting_for(spec)} ({now - began:.0f} s)")
        # Beside the training this is not the main thread, in which a signal raises.
        stopping.check()
        time.sleep(_POLL_S)


def _answers(application: Any) -> bool:
    """Return whether a replica of the application has started: before, a request would wait for one."""
    return any(deployment.replica_states.get("RUNNING") for deployment in application.deployments.values())


def _window(base_url: str, spec: ServeSpec) -> int:
    """Return the window of the models that the endpoint serves; 0 until it answers.

    The proxy learns of an application a moment after it runs.
    """
    # The base model alone: to list all models the endpoint looks at every trial of the storage, which may take minutes.
    url = f"{base_url}/models/{urllib.parse.quote(spec.model_id)}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {spec.api_key}"})
    # A proxy named in the environment must not come between this process and its own machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return int(json.load(answer)["max_model_len"])
    except (OSError, ValueError):
        return 0


def _waits_for_room(spec: ServeSpec) -> bool:
    """Return whether a replica's placement group is pending."""
    import ray

    groups = [group for group in ray.util.placement_group_table().values() if spec.name in (group.get("name") or "")]
    return any(group["state"] == "PENDING" for group in groups)


def _waiting_for(spec: ServeSpec) -> str:
    """Return what the start is waiting for: resources while the replica's placement group is pending, then vLLM."""
    import ray

    if _waits_for_room(spec):
        needed = " + ".join(f"{amount:g} {key}" for bundle in bundles(spec) for key, amount in bundle.items())
        free = ray.available_resources()
        return (
            f"{needed} to become free on the cluster (free now: {free.get('CPU', 0):g} CPU, {free.get('GPU', 0):g} GPU)"
        )
    return f"vLLM to import and to load {spec.model_id}"


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
