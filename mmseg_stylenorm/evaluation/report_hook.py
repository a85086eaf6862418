"""Where the report of a test goes, and what its images are called."""

from mmengine.registry import HOOKS
from mmengine.runner import Runner

from timm_stylenorm.runner.stand_ins import UnreadHook

from ..datasets.domains import image_folders, left_out
from .metric import DomainIoUMetric


@HOOKS.register_module()
class ReportHook(UnreadHook):
    """Tells the metrics of a test what they cannot know: the run's own folder, and where the images lie.

    A `DomainIoUMetric` without `report_dir` writes its report to `work_dir/TIMESTAMP`, where the log of the run is: a
    later test leaves it alone. `metainfo['image_folders']` is set for data sets that are not ours. And the test goes on
    after a pair that cannot be read, see `UnreadHook`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: list[DomainIoUMetric] = []

    def before_test(self, runner: Runner) -> None:
        """Runs before the first batch, on all processes."""
        super().before_test(runner)
        evaluator, dataset = runner.test_loop.evaluator, runner.test_loop.dataloader.dataset
        known = {'image_folders': image_folders(dataset), 'left_out': left_out(dataset)}
        evaluator.dataset_meta = {**known, **(evaluator.dataset_meta or {}), 'left_out': known['left_out']}
        for metric in evaluator.metrics:
            if isinstance(metric, DomainIoUMetric) and metric.report_dir is None:
                metric.report_dir = runner.log_dir
                self._told.append(metric)

    def after_test(self, runner: Runner) -> None:
        """Takes the folder back: the next run with the same metric has one of its own."""
        super().after_test(runner)
        while self._told:
            self._told.pop().report_dir = None
