"""Promises about what MLflow is told of the machine that a command runs on."""

from mlflow.entities import Metric

from inoc_ray.results.system_metrics import SystemMetrics


def test_samples_count_up_and_have_what_mlflow_names_of_processors_memory_disk_and_network():
    system = SystemMetrics()
    samples = [system.sample() for _ in range(3)]
    assert [step for step, _ in samples] == [0, 1, 2]
    for _, values in samples:
        assert {
            "system/system_memory_usage_megabytes",
            "system/disk_usage_percentage",
            "system/network_receive_megabytes",
        } <= values.keys()
        assert all(Metric(name, value, 0, 0).value == value >= 0 for name, value in values.items())
        assert 0 < values["system/system_memory_usage_percentage"] <= 100
