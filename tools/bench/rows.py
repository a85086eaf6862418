"""Studies and their rows: a study is a table; a row is a training, or a test of what another row has trained."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.arguments import Arguments, words

START = 'start'  # the row from which --fine-tune starts


@dataclass(frozen=True)
class Row:
    """A training.

    Args:
        config: Path, or name below configs/.
        words: Arguments that follow the config on the command line of tools/train.py, such as `--style padain p=0.05`.
        options: Values for `--cfg-options`.
        iters: Iterations. None: as in the config. 0: the weights that `start` has trained are only tested.
        start: The row from whose weights this one starts.
        lr_factor: Factor for the learning rate of the config.
        adabn: Arguments of the `AdaBNHook` with which it is tested. None: it is tested without the hook.
    """

    config: str
    words: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    iters: int | None = None
    start: str | None = None
    lr_factor: float = 1.0
    adabn: dict[str, Any] | None = None


@dataclass(frozen=True)
class Study:
    """A table: rows by name, of which those in `shown` appear.

    Args:
        title: Its name.
        rows: All rows; only those that are shown, or from which shown ones start, are trained.
        shown: Names of the rows in the table, in order.
        seen: Test domains that training has seen.
        others: Name of the mean of the other domains, if there are several.
        prepare: Command line of the tool that creates the data.
        predictions: Whether predictions are written as images (segmentation).
    """

    title: str
    rows: dict[str, Row]
    shown: Sequence[str]
    seen: tuple[str, ...] = ('seen',)
    others: str = 'mean of others'
    prepare: tuple[str, ...] = ()
    predictions: bool = False


def method_rows(
    plain: Row, methods: Iterable[str], arguments: Arguments, own: str = '', fine_tune: int | None = None
) -> dict[str, Row]:
    """A row for `baseline` and for each method, such as `padain` or `padain:p=0.1,sites=stage1`.

    Args:
        plain: The baseline.
        methods: Names, with arguments after a colon.
        arguments: Arguments of each method, by name, which come before those in `methods`.
        own: Pattern, with {} for the method, of the separate configs that some methods have.
        fine_tune: Number of iterations for which all rows, including the baseline, are fine-tuned from the trained
            baseline, at a tenth of its learning rate.

    Raises:
        ValueError: The baseline is given arguments, or an argument is not KEY=VALUE.
    """
    from timm_stylenorm.options import key_values
    from timm_stylenorm.runner.configs import list_configs

    known, rows = list_configs(), {START: plain}
    trained = replace(plain, iters=fine_tune, start=START, lr_factor=0.1) if fine_tune else plain
    for method in ('baseline', *methods):
        name, _, text = method.partition(':')
        given = re.split(r',(?=\w+=)', text) if text else []
        if name == 'baseline' and given:
            raise ValueError(f'{method}: the baseline takes no arguments')
        if name == 'adabn':
            rows[method] = replace(plain, iters=0, start='baseline', adabn=key_values(given))
            continue
        config = own.format(f'_{name}') if own and own.format(f'_{name}') in known else plain.config
        rows[method] = replace(trained, config=config, words=(*words(name, arguments), *given))
    return rows
