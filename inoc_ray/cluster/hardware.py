"""GPUs and cloud machines that a plan can reckon with: memory, speed, links and list prices, with their sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of GPU."""

    name: str
    memory_gib: float
    """What the driver reports, in GiB: less than the name says where the maker counts in powers of ten or ECC takes a part."""
    flops: float
    """Dense bf16 FLOP/s without sparsity."""
    bandwidth: float
    """Of its memory, in bytes/s."""
    link: float
    """To the other GPUs of its node, one direction, in bytes/s: NVLink, or PCIe."""


_GPUS = (
    Gpu(name="B200", memory_gib=179.0, flops=2250e12, bandwidth=8.0e12, link=900e9),
    Gpu(name="H200", memory_gib=140.4, flops=989e12, bandwidth=4.8e12, link=450e9),
    Gpu(name="H100", memory_gib=79.6, flops=989e12, bandwidth=3.35e12, link=450e9),
    Gpu(name="A100-80G", memory_gib=80.0, flops=312e12, bandwidth=2.04e12, link=300e9),
    Gpu(name="A100-40G", memory_gib=40.0, flops=312e12, bandwidth=1.55e12, link=300e9),
    Gpu(name="L40S", memory_gib=45.0, flops=362e12, bandwidth=0.864e12, link=32e9),
    Gpu(name="L4", memory_gib=22.5, flops=121e12, bandwidth=0.3e12, link=32e9),
    Gpu(name="A10G", memory_gib=22.5, flops=70e12, bandwidth=0.6e12, link=32e9),
)
"""Speed, bandwidth and links: NVIDIA's data sheets, without sparsity, one direction (SXM variants; the L40S, L4 and A10G over PCIe
4.0). The A10G has no data sheet of its own: its 70 TFLOP/s are those of Baseten's comparison of A10 and A10G. Memory as nvidia-smi
shows it: B200 183,359 MiB, H200 143,771, H100 81,559, A100 81,920 and 40,960, L40S 46,068, L4 23,034, A10G 23,028."""

GPUS: Mapping[str, Gpu] = {gpu.name: gpu for gpu in _GPUS}
ALIASES: Mapping[str, str] = {
    "A100": "A100-40G",
    "NVIDIA-H100": "H100",
    "A100-80GB": "A100-80G",
    "A100-40GB": "A100-40G",
}
"""Other names of these, such as those of Ray's `accelerator_type:`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A kind of machine of a cloud."""

    name: str
    gpu: str | None
    gpus: int
    cpus: int
    memory_gib: int
    network: float
    """To other machines, in bytes/s: what lasts, where a cloud gives a machine more for some minutes ("up to")."""
    dollars_per_hour: float | None = None
    """On demand, before any discount; None if not noted here."""


PRICES = "AWS's on-demand list for us-east-1 of 19 January 2026"
"""Where the prices below come from: the copy of AWS's price list in Karpenter, pkg/providers/pricing/zz_generated.pricing_aws.go of
github.com/aws/karpenter-provider-aws at 031e72b ("generated at 2026-01-19T13:23:24Z for us-east-1"). Prices move: a file of your
own nodes gives yours (`dollars_per_hour`)."""


def _machine(
    name: str, gpu: str | None, gpus: int, *, cpus: int, gib: int, gbits: float, price: float | None = None
) -> Machine:
    return Machine(
        name=name, gpu=gpu, gpus=gpus, cpus=cpus, memory_gib=gib, network=gbits * 1e9 / 8, dollars_per_hour=price
    )


_MACHINES = (
    _machine("g5.xlarge", "A10G", 1, cpus=4, gib=16, gbits=2.5, price=1.006),
    _machine("g5.12xlarge", "A10G", 4, cpus=48, gib=192, gbits=40, price=5.672),
    _machine("g5.48xlarge", "A10G", 8, cpus=192, gib=768, gbits=100, price=16.288),
    _machine("g6.xlarge", "L4", 1, cpus=4, gib=16, gbits=2.5, price=0.8048),
    _machine("g6.12xlarge", "L4", 4, cpus=48, gib=192, gbits=40, price=4.6016),
    _machine("g6.48xlarge", "L4", 8, cpus=192, gib=768, gbits=100, price=13.3504),
    _machine("g6e.xlarge", "L40S", 1, cpus=4, gib=32, gbits=2.5, price=1.861),
    _machine("g6e.2xlarge", "L40S", 1, cpus=8, gib=64, gbits=5, price=2.24208),
    _machine("g6e.4xlarge", "L40S", 1, cpus=16, gib=128, gbits=20, price=3.00424),
    _machine("g6e.12xlarge", "L40S", 4, cpus=48, gib=384, gbits=100, price=10.49264),
    _machine("g6e.24xlarge", "L40S", 4, cpus=96, gib=768, gbits=200, price=15.06559),
    _machine("g6e.48xlarge", "L40S", 8, cpus=192, gib=1536, gbits=400, price=30.13118),
    _machine("p4d.24xlarge", "A100-40G", 8, cpus=96, gib=1152, gbits=400, price=21.95764),
    _machine("p4de.24xlarge", "A100-80G", 8, cpus=96, gib=1152, gbits=400, price=27.44705),
    _machine("p5.4xlarge", "H100", 1, cpus=16, gib=256, gbits=100, price=6.88),
    _machine("p5.48xlarge", "H100", 8, cpus=192, gib=2048, gbits=3200, price=55.04),
    _machine("p5en.48xlarge", "H200", 8, cpus=192, gib=2048, gbits=3200, price=63.296),
    _machine("p6-b200.48xlarge", "B200", 8, cpus=192, gib=2048, gbits=3200, price=113.9328),
    _machine("m7i.2xlarge", None, 0, cpus=8, gib=32, gbits=3.125, price=0.4032),
    _machine("a2-highgpu-8g", "A100-40G", 8, cpus=96, gib=680, gbits=100),
    _machine("a2-ultragpu-1g", "A100-80G", 1, cpus=12, gib=170, gbits=24),
    _machine("a2-ultragpu-8g", "A100-80G", 8, cpus=96, gib=1360, gbits=100),
    _machine("a3-highgpu-8g", "H100", 8, cpus=208, gib=1872, gbits=800),
)
"""AWS: cores, memory and GPUs as its API gives them, by the page of Karpenter (website/content/en/docs/reference/instance-types.md
of github.com/aws/karpenter-provider-aws at 0c5e7d8; there the one GPU of a p5.4xlarge is counted as 0) and AWS Batch's page on GPU
jobs; network by pkg/providers/instancetype/zz_generated.bandwidth.go at 01a436f. Google: cores and memory by SkyPilot's catalogue
(catalogs/v8/gcp/vms.csv of github.com/skypilot-org/skypilot-catalog at 006059e), network by Google's page "Networking and GPU
machines": the most of A2, and the four interfaces of an a3-highgpu-8g that are for its GPUs. Prices: see `PRICES`."""

MACHINES: Mapping[str, Machine] = {machine.name: machine for machine in _MACHINES}


def find_gpu(name: str) -> Gpu | None:
    """Return the GPU of that name, as the catalogue, Ray (`accelerator_type:H100`) or nvidia-smi writes it."""
    plain = name.removeprefix("NVIDIA").strip(" -")
    if plain in ALIASES:
        return GPUS[ALIASES[plain]]
    return GPUS.get(plain) or next((gpu for gpu in _GPUS if plain.split(" ")[0] == gpu.name), None)
