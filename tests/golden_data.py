"""Reading the reference vectors, and the rule that fills the weights of whole networks."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / 'golden'


def load(name):
    """All arrays of a file as tensors; strings stay numpy arrays."""
    with np.load(GOLDEN / f'{name}.npz', allow_pickle=False) as arrays:
        return {k: v if v.dtype.kind == 'U' else torch.as_tensor(v.copy()) for k, v in arrays.items()}


def load_keys(name):
    """`state_dict`: [key, shape, dtype] in the authors' order; `parameters`: names in the order of gradient norms."""
    return json.loads((GOLDEN / f'keys_{name}.json').read_text())


def fill(key, shape, salt=0):
    """The weights that belong to an authors' key."""
    rng = np.random.Generator(np.random.PCG64((zlib.crc32(key.encode()) + salt) % 2**32))
    last = key.rpartition('.')[2]
    if last == 'num_batches_tracked':
        return torch.zeros(shape, dtype=torch.long)
    if last == 'running_var':
        return torch.tensor(0.5 + rng.random(shape), dtype=torch.float32)
    z = rng.standard_normal(shape)
    if last in ('running_mean', 'bias'):
        z = 0.1 * z
    elif len(shape) >= 2:
        z = z / math.sqrt(math.prod(shape[1:]))
    else:
        z = 1 + 0.1 * z
    return torch.tensor(z, dtype=torch.float32)


def authors_state(name):
    """The authors' state dict of a key list, filled by the rule."""
    return {key: fill(key, tuple(shape)) for key, shape, _ in load_keys(name)['state_dict']}


def filled(model):
    """A model in evaluation whose weights and statistics are those of its own keys, and no initialisation."""
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(fill(key, tuple(value.shape)))
    return model.eval()


def assert_matches(actual, expected):
    """The tolerance of the layer files."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 + 1e-4 * float(expected.abs().max()))


def sample(x, count=96):
    """The strided sample of the whole-network files."""
    flat = x.detach().contiguous().flatten()
    return flat[:: max(1, flat.numel() // count)][:count]
