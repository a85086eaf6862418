"""The studies included in the project, on data that need no download."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import arguments
from bench.rows import Row, Study, method_rows

CLASSIFIER = 'classification/resnet18{}_1xb64-500_fashion-mnist.py'
SEGMENTOR = 'quickstart/deeplabv3plus_r18-small{}-240_toy-streets.py'
SOURCE = SEGMENTOR.format('_1xb8')
STREETS = Path('data/toy_streets')


def fashion_mnist(
    methods: Sequence[str],
    iters: int | None = None,
    fine_tune: int | None = None,
    data: str | None = None,
    limit: int | None = None,
) -> Study:
    """Trains on clean images; tests on clean images and on eight other styles."""
    from timm_stylenorm.evaluation.style_shifts import STYLE_SHIFTS

    tests = [f'test_dataloader.dataset.domains.{name}' for name in ('clean', *STYLE_SHIFTS)]
    sizes = {'train_dataloader.dataset': 8000, **dict.fromkeys(tests, 2000)}
    options = [f'{place}.root={data}' for place in sizes if data]
    options += [f'{place}.limit={min(limit, size)}' for place, size in sizes.items() if limit]
    plain = Row(CLASSIFIER.format(''), options=tuple(options), iters=iters)
    rows = method_rows(plain, methods, arguments.FASHION_MNIST, CLASSIFIER, fine_tune)
    return Study('Fashion-MNIST', rows, methods, ('clean',), 'all shifts')


def toy_streets(
    methods: Sequence[str], iters: int | None = None, data: Path = STREETS, predictions: bool = False
) -> Study:
    """Trains on the drawn game domain; tests on held-out images of it and on the other domain."""
    places = {'train_dataloader.dataset': 'gta5', 'seen_dataset': 'gta5', 'test_dataloader.dataset': 'cityscapes'}
    options = tuple(f'{place}.data_root={data}/{domain}' for place, domain in places.items())
    rows = method_rows(Row(SOURCE, (), options, iters), methods, arguments.TOY_STREETS, SEGMENTOR.format('{}_1xb8'))
    prepare = ('prepare_toy_streets.py', str(data))
    return Study('toy streets', rows, methods, prepare=prepare, predictions=predictions)


def adaptation(iters: int) -> Study:
    """Source only and, from its weights, half as long, adapted to unlabelled target images; all also with AdaBN."""
    source = Row(SOURCE, iters=iters)
    longer = replace(source, iters=iters // 2, start='source only', options=('optim_wrapper.optimizer.lr=5e-4',))

    def adapted(name: str, start: str) -> Row:
        return Row(SEGMENTOR.format(f'_{name}_1xb4'), iters=iters // 2, start=start)

    rows = {
        'source only': source,
        'source only, longer': longer,
        'MaxSquare': adapted('maxsquare', 'source only'),
        'weighted MaxSquare': adapted('iw-maxsquare', 'source only'),
        'FADA': adapted('fada', 'source only'),
        'pAdaIN': replace(source, words=('--style', 'padain', 'p=0.05')),
        'pAdaIN + FADA': adapted('fada-padain', 'pAdaIN'),
    }
    with_adabn = {f'{name}, AdaBN': replace(row, iters=0, start=name, adabn={}) for name, row in rows.items()}
    prepare = ('prepare_toy_streets.py', str(STREETS))
    return Study('adaptation', {**rows, **with_adabn}, [*rows, *with_adabn], prepare=prepare, predictions=True)
