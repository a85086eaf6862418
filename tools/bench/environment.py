"""The environment on which the numbers of a benchmark depend."""

import os
import platform
from pathlib import Path
from typing import Any

import timm
import torch

import timm_stylenorm

RECYCLE = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': str(2**34)}  # an allocator that keeps freed memory


def environment() -> dict[str, Any]:
    """Versions, machine and settings."""
    info = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    models = [line.partition(':')[2].strip() for line in info.splitlines() if line.startswith('model name')]
    return {
        'stylenorm': timm_stylenorm.__version__,
        'torch': torch.__version__,
        'timm': timm.__version__,
        'python': platform.python_version(),
        'system': platform.platform(),
        'cpu': models[0] if models else platform.processor(),
        'cpus': os.cpu_count(),
        'vector instructions': torch.backends.cpu.get_cpu_capability(),
        'threads': torch.get_num_threads(),
        'load at the start': round(os.getloadavg()[0], 2),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        'cuda': torch.version.cuda if torch.cuda.is_available() else None,
        'allocator': {key: os.environ[key] for key in RECYCLE if key in os.environ} or 'default',
    }
