"""Robustness by the field's protocols, and what of a drop between domains is style."""

from .diagnosis import Diagnosis, PlaceReport, diagnose
from .engine import Result, evaluate
from .options import Options
from .protocols import PROTOCOLS, Protocol, list_protocols
from .running import Running

__all__ = [
    'PROTOCOLS',
    'Diagnosis',
    'Options',
    'PlaceReport',
    'Protocol',
    'Result',
    'Running',
    'diagnose',
    'evaluate',
    'list_protocols',
]
