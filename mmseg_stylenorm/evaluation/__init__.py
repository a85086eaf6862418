"""What a test over several domains measures, draws and writes; importing this registers it."""

from .metric import DomainIoUMetric, class_scores, confusion
from .predictions import SavePredictions

__all__ = ['DomainIoUMetric', 'SavePredictions', 'class_scores', 'confusion']
