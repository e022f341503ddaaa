"""System metrics of the machine on which a command runs, as MLflow measures and names them."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

PREFIX = "system/"
"""MLflow shows what begins with it on a page of its own."""


class SystemMetrics:
    """Processors, memory, disk, network and GPUs of this machine, by MLflow's own monitors.

    MLflow's thread is left out: it asks the server for the run's status at every sample, and gives up at the first error.
    """

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        # What it raises where there is no GPU, or no library for it.
        with contextlib.suppress(ImportError, RuntimeError):
            self._monitors.append(GPUMonitor())
        self._step = -1

    def sample(self) -> tuple[int, dict[str, float]]:
        """Return the number of the sample and its values; of utilizations the mean since the sample before."""
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= {f"{PREFIX}{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        self._step += 1
        # Some containers count no processor time between two samples.
        return self._step, {name: value for name, value in values.items() if math.isfinite(value)}
