"""A bar over several trainings of mmengine's Runner."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from tqdm import tqdm


class ProgressHook(Hook):
    """One bar for all iterations of all runs."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """One step further."""
        self.bar.update()
