"""Accuracy on Fashion-MNIST in other styles as bars, with an image of each style."""

from pathlib import Path

from bench.tables import Table
from disk import save_figure


def draw(table: Table, columns: list[str], dataset: dict, file: Path) -> None:
    """Writes a PNG.

    Args:
        table: What is drawn, with the standard deviation over seeds.
        columns: Test sets, in this order.
        dataset: Config of the test set, which gives the images by domain.
        file: The picture.
    """
    import matplotlib
    from mmengine.registry import DATASETS

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    examples = {part.domain: part[0]['inputs'] for part in DATASETS.build(dataset).datasets}
    width = 0.8 / len(table)
    figure, axes = plt.subplots(figsize=(11, 5))
    for k, (method, values) in enumerate(table.items()):
        places = [i + (k - (len(table) - 1) / 2) * width for i in range(len(columns))]
        means, spreads = zip(*(values[name] for name in columns), strict=True)
        axes.bar(places, means, width, yerr=spreads, capsize=2, label=method, color=plt.get_cmap('tab10')(k % 10))
    axes.axhline(10, color='grey', linewidth=0.8, linestyle=':')
    axes.set_xticks(range(len(columns)), columns)
    axes.set_ylabel('top-1 accuracy, %')
    axes.set_ylim(0, 100)
    axes.set_title('Fashion-MNIST in other styles (dotted: chance)', loc='left')
    axes.legend(ncols=len(table), frameon=False, loc='upper right')
    axes.spines[['top', 'right']].set_visible(False)
    for i, name in enumerate(columns):
        if name in examples:
            picture = OffsetImage(examples[name].permute(1, 2, 0).numpy(), zoom=1.6, interpolation='nearest')
            box = AnnotationBbox(picture, (i, -0.22), xycoords=('data', 'axes fraction'), frameon=False)
            axes.add_artist(box)
    figure.subplots_adjust(left=0.06, right=0.99, top=0.93, bottom=0.28)
    save_figure(figure, file, dpi=120)
    plt.close(figure)
