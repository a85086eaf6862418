"""Robustness by the field's protocols: ImageNet-C and its relatives, shape bias, attacks."""

from .cells import Options
from .engine import Result, evaluate
from .protocols import PROTOCOLS, Protocol, list_protocols
from .running import Running

__all__ = ['PROTOCOLS', 'Options', 'Protocol', 'Result', 'Running', 'evaluate', 'list_protocols']
