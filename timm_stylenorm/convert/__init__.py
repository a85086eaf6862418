"""Checkpoints of other authors: converts their keys to ours and back, with a report of every key.

    conversion = convert(read_state_dict('resnet50_ibn_a.pth'))
    print(conversion.report)
    model = verify(conversion)  # or timm.create_model(...).load_state_dict(conversion.state_dict)

`SOURCES` is the table of the authors whose checkpoints can be read and written.
"""

from ..checkpoints import SUFFIXES, Checkpoint, read_checkpoint, read_state_dict, write_state_dict
from ..installed import needing
from .prefixes import detect
from .sources import SOURCES

with needing(__name__):
    from .conversion import Conversion, Report, convert, export
    from .verify import verify

__all__ = [
    'SOURCES',
    'SUFFIXES',
    'Checkpoint',
    'Conversion',
    'Report',
    'convert',
    'detect',
    'export',
    'read_checkpoint',
    'read_state_dict',
    'verify',
    'write_state_dict',
]
