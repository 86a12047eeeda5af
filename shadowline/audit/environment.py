"""The environment of a model, besides code, parameters and data: it can change the last bits of a result.

made_with = describe_environment()                  # kept with a model version, as JSON
environment_differences(made_with, describe_environment())      # ("torch 2.13.0, here 2.14.0", …)
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from shadowline.core.device import pick_device

THREADS, DEVICE = "threads", "device"
_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
    "safetensors",
    "shadowline",
)


def describe_environment() -> dict[str, str]:
    """Name → value, of this process and the processes that it starts."""
    return {
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),  # a virtual machine may hide the processor's name
        DEVICE: pick_device().type,
        THREADS: str(torch.get_num_threads()),
        **{name: version(name) for name in _PACKAGES},
    }


def environment_differences(made_with: Mapping[str, str], here: Mapping[str, str]) -> tuple[str, ...]:
    """One line for each value that differs here."""
    return tuple(
        f"{name} {value}, here {here.get(name, 'none')}" for name, value in made_with.items() if here.get(name) != value
    )


def same_settings(made_with: Mapping[str, str]) -> dict[str, str]:
    """Environment variables under which a process computes as that environment did, as far as variables can do so."""
    chosen: dict[str, str] = {}
    if THREADS in made_with:
        chosen |= {"OMP_NUM_THREADS": made_with[THREADS], "MKL_NUM_THREADS": made_with[THREADS]}
    if made_with.get(DEVICE) == "cpu":
        chosen["SHADOWLINE_DEVICE"] = "cpu"
    return chosen


def _cpu_name() -> str:
    """The processor's name from the kernel, which is more exact than Python's."""
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
