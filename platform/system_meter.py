"""Readings of the machine: how busy processors and GPU are, and what memory the trainer holds."""

import os
from typing import Any

import psutil

from .catalogue import CPU_SHARE, GPU_MEMORY_GIB, GPU_SHARE, MEMORY_GIB

_GIB = 2**30


class SystemMeter:
    """Reads this process and, where an NVIDIA driver answers, one GPU.

    The shares are means since the reading before; read every second or so.
    """

    def __init__(self, gpu_index: int = 0) -> None:
        """gpu_index: the GPU's number as the driver counts."""
        self._process = psutil.Process()
        self._process.cpu_percent(None)
        self._gpu = _Gpu.found(gpu_index)

    def read(self) -> dict[str, float]:
        """Returns {catalogue signal: value}; GPU signals are absent where there is no GPU. Never
        raises.
        """
        values: dict[str, float] = {}
        try:
            # 100 % is one processor here
            percent = self._process.cpu_percent(None)
            values[CPU_SHARE] = percent / 100 / (os.cpu_count() or 1)
            values[MEMORY_GIB] = self._process.memory_info().rss / _GIB
        except psutil.Error:
            pass
        if self._gpu is not None:
            values |= self._gpu.read()
        return values


class _Gpu:
    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    @classmethod
    def found(cls, index: int) -> "_Gpu | None":
        try:
            import pynvml

            pynvml.nvmlInit()
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index))
        except Exception:  # no driver, no such GPU, a broken installation: there is no GPU to read
            return None

    def read(self) -> dict[str, float]:
        try:
            share = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100
            used = self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
            own = [p.usedGpuMemory for p in processes if p.pid == os.getpid() and p.usedGpuMemory]
            # inside a container the driver may know this process by another number: then the whole
            # GPU is shown
            return {GPU_SHARE: share, GPU_MEMORY_GIB: (own[0] if own else used) / _GIB}
        except self._nvml.NVMLError:
            return {}
