"""One run of a comparison in its own process: python tools/bench/worker.py FOLDER, which `bench.plan` has filled.

It writes a byte for each percent of the training to standard output, and all else to standard error. Finished work is
not repeated: a killed training continues from its newest checkpoint, a finished one is only tested.
"""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.pop(0)  # this folder, whose modules are imported as a package
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.plan import metric_of, scores_of
from bench.runs import read_json, write_json
from cli import load_config, parser
from processes import obey

if TYPE_CHECKING:
    from mmengine.config import Config


def newest(folder: Path) -> str:
    """The newest checkpoint of a training."""
    from timm_stylenorm.runner.latest import newest_checkpoint

    found = newest_checkpoint(str(folder))
    if not found:
        raise FileNotFoundError(f'{folder} holds no checkpoint')
    return found


def train(cfg: 'Config', file: Path, stream: int) -> None:
    """Trains, and writes the time to `file`; if resumed, it is extrapolated from the pace since then."""
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    from timm_stylenorm.runner.terminal import QuietRunner

    class Progress(Hook):
        """Reports the progress of a training."""

        told = steps = 0

        def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
            """Writes a byte for each new percent."""
            self.steps += 1
            percent = 100 * (runner.iter + 1) // runner.max_iters
            os.write(stream, b'.' * (percent - self.told))
            self.told = percent

    runner, progress = QuietRunner.from_cfg(cfg), Progress()
    runner.register_hook(progress)
    begun = time.time()
    runner.train()
    seconds = (time.time() - begun) * runner.max_iters / max(1, progress.steps)
    write_json(file, {'seconds': round(seconds, 1)})


def test(cfg: 'Config', checkpoint: str, folder: Path, job: dict[str, Any]) -> dict[str, float]:
    """The scores of a checkpoint by domain.

    Raises:
        ValueError: Some images could not be read.
    """
    import timm_stylenorm.hooks  # noqa: F401 (registers AdaBNHook)
    from timm_stylenorm.runner.terminal import QuietRunner

    if job['predictions']:
        metric_of(cfg, str(folder)).output_dir = str(folder / 'predictions')
    if job['adabn'] is not None:
        cfg.custom_hooks = [*cfg.custom_hooks, {'type': 'AdaBNHook', **job['adabn']}]
    cfg.load_from, cfg.resume, cfg.work_dir = checkpoint, False, str(folder / 'test')
    cfg.experiment_name = f'{folder.name}_{time.time_ns()}'  # mmengine's loggers are global by name
    runner = QuietRunner.from_cfg(cfg)
    scores = scores_of(runner.test(), cfg)
    unread = [text for hook in runner.hooks for text in getattr(hook, 'unread', {}).values()]
    if unread:
        raise ValueError(f'{len(unread)} images were not tested: {"; ".join(unread)}')
    return scores


def main(folder: Path) -> None:
    """Trains, if necessary, and tests."""
    obey()
    progress = os.dup(1)
    os.dup2(2, 1)
    job, start = read_json(folder / 'job.json'), None
    cfg = load_config(parser('').parse_args([str(folder / 'config.py'), '--work-dir', str(folder)]))
    if job['start']:
        start = Path(job['start'])
        cfg.load_from = newest(start)
    trained = folder / 'trained.json'
    if job['trains'] and not trained.is_file():
        train(cfg, trained, progress)
    source = folder if job['trains'] or start is None else start
    scores = test(cfg, newest(source), folder, job)
    write_json(folder / 'result.json', {'scores': scores, **read_json(source / 'trained.json')})


if __name__ == '__main__':
    main(Path(sys.argv[1]))
