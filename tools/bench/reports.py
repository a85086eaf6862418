"""Reports of comparisons: for each command a function that writes results and returns the text to print."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.engine import Results
from bench.plan import METRICS, Run, metric_of
from bench.rows import Study
from bench.tables import SECONDS, Table, columns_of, grid, markdown, seeds_of, summarise, write_summary
from cli import kind_of

Publish = Callable[[Results, list[Run]], str]


def publish_comparison(study: Study, out: Path) -> Publish:
    """Methods as rows; test domains, the mean of the unseen ones and the training time as columns."""

    def publish(results: Results, runs: list[Run]) -> str:
        from figures.spread import draw

        table = summarise(results, study)
        unit = METRICS[kind_of(metric_of(runs[0].cfg, study.title))][2]
        columns = {name: name if name == SECONDS else f'{name} {unit}' for name in columns_of(table)}
        text = markdown(grid(_corner(results), table, columns, results))
        write_summary(out, text, {study.title: table}, results)
        draw({f'{study.title}, {unit}, %': table}, out.with_name(f'{out.name}.png'))
        return text

    return publish


def publish_demo(study: Study, folder: Path, data: Path) -> Publish:
    """Like `publish_comparison`, with a picture of predictions."""

    def publish(results: Results, runs: list[Run]) -> str:
        from figures.predictions import draw

        text = publish_comparison(study, folder / 'results')(results, runs)
        draw(folder / 'demo.png', data, _of_first_seed(runs))
        return f'{text}\n\nmIoU in percent. Picture: {folder / "demo.png"}; numbers: {folder / "results.json"}'

    return publish


def publish_styles(study: Study, out: Path) -> Publish:
    """Test sets as rows, methods as columns."""

    def publish(results: Results, runs: list[Run]) -> str:
        from figures.spread import draw

        table = summarise(results, study)
        lines = grid('test images', table, {name: name for name in columns_of(table) if name != SECONDS}, results)
        text = markdown([*zip(*lines, strict=True)])
        write_summary(out, text, {study.title: table}, results)
        draw({f'{study.title} in other styles, top-1 accuracy, %': table}, out.with_name(f'{out.name}.png'))
        return text

    return publish


def publish_methods(studies: Sequence[Study], out: Path) -> Publish:
    """Methods as rows; for each study the seen domains and the mean of the others as columns."""

    def publish(results: Results, runs: list[Run]) -> str:
        from figures.spread import draw

        tables = {study.title: _brief(summarise(results, study), study) for study in studies}
        joined: Table = {}
        for title, table in tables.items():
            for name, values in table.items():
                joined.setdefault(name, {}).update({f'{title}, {column}': value for column, value in values.items()})
        lines = grid(_corner(results), joined, {name: name for name in columns_of(joined)}, results)
        text = markdown(lines)
        write_summary(out, text, tables, results)
        draw({f'{title}, %': table for title, table in tables.items() if table}, out.with_name(f'{out.name}.png'))
        return text

    return publish


def publish_adaptation(study: Study, folder: Path) -> Publish:
    """Trainings as rows, columns without and with AdaBN; a figure with points, and a picture of predictions."""

    def publish(results: Results, runs: list[Run]) -> str:
        from bench.presets import STREETS
        from figures.predictions import draw
        from figures.spread import draw as draw_spread

        every = {name: values['unseen'] for name, values in summarise(results, study).items()}
        titles = {'': 'mIoU on the target', ', AdaBN': 'with AdaBN'}
        table = {
            name: {title: every[name + end] for end, title in titles.items() if name + end in every}
            for name in every
            if not name.endswith(', AdaBN')
        }
        text = markdown(grid('training', table, {title: title for title in titles.values()}, results))
        write_summary(folder / 'summary', text, {study.title: table}, results)
        draw_spread({'Toy streets: game to other domain, mIoU, %': table}, folder / 'summary.png')
        shown = [run for run in _of_first_seed(runs) if run.name in table]
        draw(folder / 'pictures.png', STREETS, shown, ('unseen',), rows=4)
        seeds = ', '.join(map(str, seeds_of(results)))
        return f'{text}\n\nmIoU in percent, seeds {seeds}; plot and pictures: {folder}'

    return publish


def _corner(results: Results) -> str:
    return f'method (seeds {", ".join(map(str, seeds_of(results)))})'


def _of_first_seed(runs: list[Run]) -> list[Run]:
    return [run for run in runs if run.seed == runs[0].seed]


def _brief(table: Table, study: Study) -> Table:
    """A table without times and, if it has the mean of the unseen domains, without their single columns."""
    return {
        name: {
            column: value
            for column, value in values.items()
            if column != SECONDS and (study.others not in values or column in (*study.seen, study.others))
        }
        for name, values in table.items()
    }
