"""Where the report of a test goes, what its images are called, and which of them could not be read."""

from collections.abc import Sequence
from logging import ERROR

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ..datasets.domains import image_folders, left_out
from .metric import DomainIoUMetric


@HOOKS.register_module()
class ReportHook(Hook):
    """Tells the metrics of a test what they cannot know: the run's own folder, and where the images lie.

    A `DomainIoUMetric` without `report_dir` writes its report to `work_dir/TIMESTAMP`, where the log of the run is: a
    later test leaves it alone. `metainfo['image_folders']` is set for data sets that are not ours.

    A test on our data sets goes on after an image or label that cannot be read, see `item_or_stand_in`. Those are
    errors in the log at the end; `unread` has the reasons by image, and `tools/test.py` then ends with status 2.
    """

    def __init__(self) -> None:
        self._told: list[DomainIoUMetric] = []
        self.unread: dict[str, str] = {}

    def before_test(self, runner: Runner) -> None:
        """Runs before the first batch, on all processes."""
        evaluator, dataset = runner.test_loop.evaluator, runner.test_loop.dataloader.dataset
        known = {'image_folders': image_folders(dataset), 'left_out': left_out(dataset)}
        evaluator.dataset_meta = {**known, **(evaluator.dataset_meta or {}), 'left_out': known['left_out']}
        self.unread = {}
        if hasattr(dataset, 'keep_going'):
            dataset.keep_going = True
        for metric in evaluator.metrics:
            if isinstance(metric, DomainIoUMetric) and metric.report_dir is None:
                metric.report_dir = runner.log_dir
                self._told.append(metric)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Notes what could not be read."""
        for sample in outputs or ():
            fault = sample.get('unread')
            if fault:
                self.unread[fault['image']] = fault['reason']

    def after_test(self, runner: Runner) -> None:
        """Takes the folder back: the next run with the same metric has one of its own."""
        while self._told:
            self._told.pop().report_dir = None
        self.unread = {image: why for part in all_gather_object(self.unread) for image, why in part.items()}
        for image, why in self.unread.items():
            print_log(f'not tested: {image}: {why}', 'current', ERROR)
