"""Where the report of a test goes, and what its images are called."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..datasets.domains import image_folders
from .metric import DomainIoUMetric


@HOOKS.register_module()
class ReportHook(Hook):
    """Tells the metrics of a test what they cannot know: the run's own folder, and where the images lie.

    A `DomainIoUMetric` without `report_dir` writes its report to `work_dir/TIMESTAMP`, where the log of the run is: a
    later test leaves it alone. `metainfo['image_folders']` is set for data sets that are not ours.
    """

    def __init__(self) -> None:
        self._told: list[DomainIoUMetric] = []

    def before_test(self, runner: Runner) -> None:
        """Runs before the first batch, on all processes."""
        evaluator = runner.test_loop.evaluator
        folders = image_folders(runner.test_loop.dataloader.dataset)
        evaluator.dataset_meta = {'image_folders': folders, **(evaluator.dataset_meta or {})}
        for metric in evaluator.metrics:
            if isinstance(metric, DomainIoUMetric) and metric.report_dir is None:
                metric.report_dir = runner.log_dir
                self._told.append(metric)

    def after_test(self, runner: Runner) -> None:
        """Takes the folder back: the next run with the same metric has one of its own."""
        while self._told:
            self._told.pop().report_dir = None
