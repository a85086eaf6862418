"""Triton's kernels without a GPU: under the interpreter, and compiled for GPUs that are not here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip('triton', reason='Triton comes with torch for CUDA, or by `pip install triton`')
if not hasattr(torch.library, 'register_fake'):
    pytest.skip('torch before 2.4 has no torch.library.register_fake', allow_module_level=True)

HERE = Path(__file__).parent


@pytest.mark.slow
def test_kernels_are_right_under_the_interpreter():
    env = {**os.environ, 'TRITON_INTERPRET': '1'}
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '-x',
        '-p',
        'no:cacheprovider',
        str(HERE / 'interpreted_kernels.py'),
    ]
    done = subprocess.run(command, cwd=HERE.parents[1], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
    assert ' passed' in done.stdout


def signatures():
    """Of each kernel what it is compiled for: dtypes of maps, rows of the centre, sizes that need 64 bits."""
    from timm_stylenorm.functional import triton_kernels

    for name in ('moments', 'affine', 'sums', 'gradient'):
        kernel = getattr(triton_kernels, f'{name}_kernel')
        for dtype in ('fp32', 'bf16', 'fp16'):
            for stride in ('i32', 'i64'):
                yield pytest.param(kernel, dtype, stride, id=f'{name}-{dtype}-{stride}')
    yield pytest.param(triton_kernels.merge_kernel, 'fp32', 'i32', id='merge')


@pytest.mark.slow
@pytest.mark.parametrize('capability', [80, 90])
@pytest.mark.parametrize(('kernel', 'dtype', 'stride'), [*signatures()])
def test_kernels_compile_for_a_gpu(kernel, dtype, stride, capability):
    from triton.backends.compiler import GPUTarget

    constants = {'CENTRE': 2, 'LEVEL': True, 'BLOCK_L': 32, 'BLOCK_C': 64, 'BLOCK': 256}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {
        name: 'constexpr' if name in constants
        else f'*{dtype}' if name in ('x_ptr', 'g_ptr', 'y_ptr')
        else '*fp32' if name.endswith('_ptr')
        else stride if name[1:] in ('_n', '_l')
        else 'constexpr' if name[1:] == '_c'
        else 'i32'
        for name in kernel.arg_names
    }  # fmt: skip
    constants |= {name: 1 for name in kernel.arg_names if name[1:] == '_c'}  # as Triton takes strides of 1
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget('cuda', capability, 32))
    assert compiled.asm['cubin']
    assert compiled.metadata.shared <= 48 * 1024  # bytes; what every GPU has for a block
