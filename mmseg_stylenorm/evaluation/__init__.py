"""What a test over several domains measures, draws and writes; importing this registers it."""

from .metric import DomainIoUMetric, class_scores, confusion
from .overlays import OverlayHook
from .predictions import SavePredictions
from .report_hook import ReportHook

__all__ = ['DomainIoUMetric', 'OverlayHook', 'ReportHook', 'SavePredictions', 'class_scores', 'confusion']
