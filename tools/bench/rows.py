"""What a comparison trains: a study is a table, and a row of it a training, or a test of what another row trained."""

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
        words: What follows it on the command line of tools/train.py, such as `--style padain p=0.05`.
        options: What `--cfg-options` says.
        iters: Iterations; None: as many as in the config; 0: what `start` has trained is only tested.
        start: The row from whose weights this one starts.
        lr_factor: For the learning rate of the config.
        adabn: Arguments of the `AdaBNHook` with which it is tested; None: it is tested as it is.
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
        rows: All that may be trained; those that are neither shown nor a start of one that is are not.
        shown: Names of the rows of the table, in its order.
        seen: Test domains of the kind that is trained on.
        others: How the mean of the other domains is called, where there are several.
        prepare: Command line of the tool that makes the data.
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
        arguments: What methods are given before those, by name.
        own: Pattern of the configs that some methods have to themselves, with {} for the method.
        fine_tune: So many iterations from the trained baseline, at a tenth of its learning rate, baseline included.

    Raises:
        ValueError: Arguments of the baseline, or one that is no KEY=VALUE.
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
