"""Training in several processes without a GPU, for which mmengine would ask for CUDA devices."""

import atexit
import gc
import logging
import os

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log


def _rank_variables(launcher: str) -> None:
    """Sets the environment variables that `init_process_group` reads, if the launcher uses other names."""
    names = {
        'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
        'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
    }.get(launcher, ())
    for ours, theirs in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), names, strict=False):
        if theirs in os.environ:
            os.environ[ours] = os.environ[theirs]
    os.environ.setdefault('MASTER_PORT', '29500')
    if launcher != 'pytorch' and os.environ.get('WORLD_SIZE') == '1':
        os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    lacking = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR') if name not in os.environ]
    if lacking:
        raise ValueError(
            f'--launcher {launcher} without {", ".join(lacking)} in the environment; on one machine start with '
            '`python -m torch.distributed.run --nproc_per_node N tools/train.py CONFIG --launcher pytorch`'
        )


def _sync_bn_to_bn(node: object) -> int:
    """Replaces SyncBN in a model config, in place; returns how often."""
    if isinstance(node, dict):
        own = node.get('type') in ('SyncBN', 'MMSyncBN')
        if own:
            node['type'] = 'BN'
        return int(own) + sum(_sync_bn_to_bn(value) for value in node.values())
    return sum(map(_sync_bn_to_bn, node)) if isinstance(node, list | tuple) else 0


def _leave_group() -> None:
    """At exit: gloo's threads must end before the interpreter does, or they may abort a process that has finished.

    They end with the last reference to the group. DDP has one, and is part of reference cycles with the Runner.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def prepare_cpu_distributed(cfg: Config, launcher: str) -> None:
    """Lets several processes train without a GPU; does nothing with a GPU or without a launcher.

    mmengine would ask for CUDA devices, so the gloo group is created before the Runner, and DDP gets no device ids.
    SyncBN needs a GPU, so it becomes BN (with a warning), in the model and for the key `sync_bn`.

    Raises:
        ValueError: the environment does not have the rank, the number of processes or the address of the first one.
    """
    if launcher == 'none' or torch.cuda.is_available():
        return
    _rank_variables(launcher)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
        atexit.register(_leave_group)
    os.environ.setdefault('LOCAL_RANK', os.environ['RANK'])
    wrapper = {'type': 'MMDistributedDataParallel', 'device_ids': None, 'broadcast_buffers': False}
    wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
    cfg.model_wrapper_cfg = ConfigDict(wrapper)
    if _sync_bn_to_bn(cfg.model) + bool(cfg.pop('sync_bn', None)):
        print_log('no GPU: SyncBN became BN, each process normalises by its own images', 'current', logging.WARNING)
