"""The hook that tells the metrics of a test where to write the report and where the images are."""

from mmengine.registry import HOOKS
from mmengine.runner import Runner

from timm_stylenorm.runner.stand_ins import UnreadHook

from ..datasets.domains import image_folders, left_out
from .metric import DomainIoUMetric


@HOOKS.register_module()
class ReportHook(UnreadHook):
    """Tells the metrics of a test what they cannot know: the run's own folder, and the folders of the images.

    A `DomainIoUMetric` without `report_dir` writes its report to `work_dir/TIMESTAMP`, beside the log of the run, so a
    later test does not overwrite it. The hook sets `image_folders` in the metrics' meta information if the data set,
    not being one of ours, lacks it. The test also continues after a pair that cannot be read, see `UnreadHook`.
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
        """Unsets the folder again, so that the next run with the same metric uses its own."""
        super().after_test(runner)
        while self._told:
            self._told.pop().report_dir = None
