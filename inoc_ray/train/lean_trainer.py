"""Ray Train's trainer without the helper actors of what is not used here; each is a process that imports Ray Train, 2 to 5 core-s.

In the function of a Tune trial the controller runs in that process, which does nothing but wait for it, and hands reports to Tune
itself, without a queue. Nothing here reads Ray Data, so there is no manager of datasets. On a private cluster, of one machine
that ends with the command, nobody drains a node (no watcher of preemption), nothing outlives the command (no cleaner of placement
groups), and no autoscaler waits for requests (no coordinator of them). What stays for each group: Tune's trial, the barrier of
reports, the workers (`tests/integration/test_train_stages.py` counts them).
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import ENABLE_PREEMPTION_WATCHER_ENV_VAR
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from inoc_ray.variables import environment


class ReportToTune(UserCallback):
    """Hands what rank 0 reports to Ray Tune, in the process of a Tune trial."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Report the metrics; there are no checkpoints of Ray's here."""
        from ray import tune

        tune.report(dict(metrics[0]))


class NoAutoscaler(FixedScalingPolicy):
    """A fixed number of workers, of which no autoscaler is told."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nothing: the controller takes the policy for a callback of its own."""

    def _maybe_send_resource_request(self) -> None:
        pass


class LeanTrainer(TorchTrainer):
    """A `TorchTrainer` with few helpers; private: whether the cluster is one machine that ends with the command."""

    def __init__(self, *args: Any, private: bool, **options: Any) -> None:
        self._private = private
        super().__init__(*args, **options)

    def _create_default_callbacks(self) -> list[Any]:
        needless = (DatasetsCallback, *([PlacementGroupCleanerCallback] if self._private else []))
        return [one for one in super()._create_default_callbacks() if not isinstance(one, needless)]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        if self._private:
            options["scaling_policy"] = NoAutoscaler(self.scaling_config)
        # A controller of its own process gets it with its environment. The next run of this process may be on another cluster.
        with environment({ENABLE_PREEMPTION_WATCHER_ENV_VAR: "0"} if self._private else {}, over=True):
            return self._run_controller(**options)

    def _run_controller(self, **options: Any) -> Any:
        if ray.get_runtime_context().get_actor_id() is None:
            # In a driver, which signals may end at any moment.
            return super()._initialize_and_run_controller(**options)
        controller = TrainController(**options)
        asyncio.run(controller.run())
        return controller.get_result()
