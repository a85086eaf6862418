"""stylenorm: style normalisation for timm and mmsegmentation."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = (
    'configs',
    'tools',
    'model-index.yml',
)  # beside the packages in a checkout, in mmseg_stylenorm/.mim in a wheel


class BuildWithConfigs(build_py):
    """Ship configs and tools where mmengine and mim look for them: `<package>/.mim`.

    A checkout has links to them there. An editable installation makes those that are missing, or copies where the
    system has no links.
    """

    def run(self):
        shutil.rmtree(Path(self.build_lib, 'mmseg_stylenorm', '.mim'), ignore_errors=True)  # of an older build
        super().run()
        for name in SHIPPED:
            if self.editable_mode:
                link(name)
            else:
                self.ship(ROOT / name, Path(self.build_lib, 'mmseg_stylenorm', '.mim', name))

    def ship(self, source, target):
        for path in sorted(source.rglob('*')) if source.is_dir() else [source]:
            if path.is_file() and path.suffix in ('.py', '.sh', '.yml'):
                copy = target / path.relative_to(source)
                self.mkpath(str(copy.parent))
                self.copy_file(str(path), str(copy))


def link(name):
    """Makes mmseg_stylenorm/.mim/NAME a link to NAME, or a copy, in place of whatever else is there."""
    source, target = ROOT / name, ROOT / 'mmseg_stylenorm' / '.mim' / name
    if target.resolve() == source.resolve():
        return
    target.parent.mkdir(exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(Path('..', '..', name), target_is_directory=source.is_dir())
    except OSError:
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)


TIMM = ['timm>=1.0.27', 'torchvision>=0.16.2']
# The maintained forks of OpenMMLab's packages, under their import names. They write over OpenMMLab's own: who has these
# installs the extra `timm` beside them.
RUNNER = ['onedl-mmengine>=0.10.8', 'onedl-mmcv>=2.3']
MMSEG = [
    *TIMM,
    *RUNNER,
    'onedl-mmsegmentation>=1.3',
    'ftfy',
    'regex',
    'matplotlib',
    'tqdm',
]
MMDET = [*TIMM, *RUNNER, 'onedl-mmdetection>=3.5']
MMPRETRAIN = [*TIMM, *RUNNER, 'onedl-mmpretrain>=1.3']
HOSTS = [*MMSEG, *MMDET, *MMPRETRAIN]
CORRUPTIONS = ['imagecorruptions-imaug']
EVALUATE = [*CORRUPTIONS, 'foolbox', 'matplotlib', 'tqdm']
EXPLAIN = ['grad-cam>=1.5', 'scikit-learn', 'matplotlib', 'tqdm']  # grad-cam brings opencv-python-headless
READERS = ['datasets', 'webdataset']  # of images that lie in no folders; tests of them are left out without them
TEST = ['pytest>=8', 'pytest-xdist>=3.5', 'onnx', 'onnxscript', 'onnxruntime', 'cityscapesscripts', *EVALUATE, *EXPLAIN]

TOOLS = ['stylenorm_tools', *(f'stylenorm_tools.{name}' for name in find_packages('tools'))]

setup(
    name='stylenorm',
    version=re.search(r"__version__ = '(.+)'", (ROOT / 'timm_stylenorm' / '__init__.py').read_text()).group(1),
    description='Style normalisation methods for timm classifiers and mmsegmentation segmentors, by name',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=[*find_packages(include=['timm_stylenorm*', 'mmseg_stylenorm*']), *TOOLS],
    package_dir={'stylenorm_tools': 'tools'},  # on their own they are scripts, and find one another in their folder
    entry_points={'console_scripts': ['stylenorm = stylenorm_tools.stylenorm:main']},
    package_data={'timm_stylenorm': ['py.typed', 'evaluation/*.txt'], 'mmseg_stylenorm': ['py.typed']},
    cmdclass={'build_py': BuildWithConfigs},
    install_requires=['torch>=2.1.2', 'numpy', 'safetensors'],
    extras_require={
        'timm': TIMM,
        'mmseg': MMSEG,
        'mmdet': MMDET,
        'mmpretrain': MMPRETRAIN,
        'cityscapes': ['cityscapesscripts'],
        'corruptions': CORRUPTIONS,
        'evaluate': [*TIMM, *EVALUATE],
        'explain': [*TIMM, *EXPLAIN],
        'readers': READERS,
        'test': HOSTS + TEST,
        'test-timm': TIMM + TEST,
        'dev': HOSTS + TEST + ['triton; sys_platform == "linux"', 'ruff>=0.17,<0.18', 'mypy>=2.4,<2.5'],
    },
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
)
