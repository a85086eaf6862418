"""Metrics and hooks of a test over several domains; importing this registers them."""

from .metric import DomainIoUMetric, class_scores, confusion
from .overlays import OverlayHook
from .predictions import SavePredictions
from .report_hook import ReportHook

__all__ = ['DomainIoUMetric', 'OverlayHook', 'ReportHook', 'SavePredictions', 'class_scores', 'confusion']
