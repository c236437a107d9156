"""What this machine is, as a record must say it."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_NOTABLE = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


@functools.cache
def machine() -> dict[str, Any]:
    """Processor, its instruction sets that matter for int8, cores, memory and operating system."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in {"flags", "Features"}:
                flags |= set(value.split())
    return {
        "processor": name,
        "instructions": [flag for flag in _NOTABLE if flag in flags],
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def saturates_int8() -> bool:
    """Whether 8-bit products are added in 16 bits here, so that 8-bit weights can overflow silently.

    True on x86 without VNNI or AMX (the `vpmaddubsw` path); weights must then use 7 bits.
    """
    if platform.machine() not in {"x86_64", "AMD64"}:
        return False
    return not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(machine()["instructions"])


@functools.cache
def versions() -> dict[str, str]:
    """The versions of what computes and measures."""
    found = {"python": platform.python_version()}
    for package in ("lessen", "torch", "onnx", "onnxruntime", "onnxscript", "openvino", "accelerate", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
