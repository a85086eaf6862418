"""Means and their standard deviations as points with error bars: a panel for each table, a line for each method."""

from collections.abc import Mapping
from pathlib import Path

from bench.tables import SECONDS, Table, columns_of
from disk import save_figure


def draw(panels: Mapping[str, Table], file: Path) -> None:
    """Writes a PNG of tables, given by title, without times; the baseline is dotted."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    methods = list(dict.fromkeys(name for table in panels.values() for name in table))[::-1]
    size = (5.5 * len(panels), 1.6 + 0.32 * len(methods))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for ax, (title, table) in zip(axes[0], panels.items(), strict=True):
        for number, column in enumerate(column for column in columns_of(table) if column != SECONDS):
            colour, marker = plt.get_cmap('tab10')(number % 10), 'soDv^<>Pph*'[number % 11]
            points = [(k, *table[name][column]) for k, name in enumerate(methods) if column in table.get(name, {})]
            places, means, spreads = zip(*points, strict=True)
            ax.errorbar(means, places, xerr=spreads, fmt=marker, color=colour, capsize=3, label=column)
            if column in table.get('baseline', {}):
                ax.axvline(table['baseline'][column][0], color=colour, linewidth=0.8, linestyle=':')
        ax.set_yticks(range(len(methods)), methods)
        ax.set_title(title, loc='left', fontsize=10)
        ax.grid(axis='x', linewidth=0.3)
        ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.08), ncols=4, frameon=False, fontsize=8)
        ax.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    save_figure(figure, file, dpi=120)
    plt.close(figure)
