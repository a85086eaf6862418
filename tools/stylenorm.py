"""All tools in one command; `stylenorm COMMAND --help` shows the arguments of one.

Each command runs a script of the folder tools/, and takes the same arguments as that script.
"""

import difflib
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple


class Tool(NamedTuple):
    """A row: the script in this folder, without its suffix, and what it does."""

    script: str
    summary: str


COMMANDS: dict[str, Tool] = {
    'train': Tool('train', 'train a config, for segmentation or classification'),
    'test': Tool('test', 'evaluate a checkpoint, on one domain or several'),
    'evaluate': Tool('evaluate', 'measure the robustness of classifiers: ImageNet-C, shape bias, attacks, ...'),
    'diagnose': Tool('diagnose', 'tell how much of a drop between two domains is style, and at which sites'),
    'adapt': Tool('adabn', 'adapt a checkpoint to the images of a target domain, without labels (AdaBN)'),
    'pseudo-labels': Tool('make_pseudo_labels', 'write the predictions for target images as labels'),
    'convert': Tool('convert_checkpoint', "convert a checkpoint of others to timm's or mmseg's keys, or back"),
    'methods': Tool('methods', 'list the style methods, or explain one'),
    'sites': Tool('sites', 'list the sites of a model, and the methods that fit it'),
    'configs': Tool('configs', 'list the shipped configs'),
    'prepare gta5': Tool('prepare_gta5', 'convert the labels of GTA5, and check all pairs'),
    'prepare synthia': Tool('prepare_synthia', 'convert the labels of SYNTHIA-RAND-CITYSCAPES, and check all pairs'),
    'prepare mapillary': Tool('prepare_mapillary', 'convert the labels of Mapillary Vistas, and check all pairs'),
    'prepare nthu': Tool('prepare_nthu', 'convert the test labels of a city of NTHU, and check all pairs'),
    'prepare cityscapes': Tool('prepare_cityscapes', "draw the labels of Cityscapes' polygons"),
    'prepare toy-streets': Tool('prepare_toy_streets', 'draw two small domains of streets'),
    'check': Tool('check_data', 'check every image/label pair of a data set that is ready to be read'),
    'styliser': Tool('train_styliser', 'train the decoder of the AdaIN styliser'),
    'visualize': Tool('visualize_style', 'draw what methods do to images at each stage'),
    'explain': Tool('explain', 'draw where models see a class: Grad-CAM and its relatives'),
    'style-statistics': Tool('style_statistics', 'draw the style of domains within models, and how a probe tells them'),
    'advbn-images': Tool('make_advbn_images', 'write a copy of an image folder that AdvBN has disturbed'),
    'compare': Tool('compare', 'train a config with several methods and seeds, and compare them'),
    'demo': Tool('demo', 'train and compare segmentors on drawn streets'),
    'benchmark layers': Tool('benchmark', 'measure speed and memory of all layers'),
    'benchmark methods': Tool('benchmark_methods', 'compare all methods on Fashion-MNIST and toy streets'),
    'benchmark adaptation': Tool('benchmark_adaptation', 'compare methods of adaptation on toy streets'),
    'benchmark fashion-mnist': Tool('benchmark_fashion_mnist', 'compare methods on Fashion-MNIST in other styles'),
}


def overview(group: str = '') -> str:
    """The rows of the table, or those whose first word is `group`."""
    rows = [(name, tool) for name, tool in COMMANDS.items() if not group or name.partition(' ')[0] == group]
    return '\n'.join(f'  {name:24} {tool.summary}' for name, tool in rows)


def find(words: list[str]) -> str | None:
    """The command that the first word or the first two words name, or None."""
    return next((name for name in (' '.join(words[:2]), words[0]) if name in COMMANDS), None)


def unknown_command(words: list[str]) -> str:
    """The message if `find` finds nothing."""
    group = words[0] if any(name.startswith(f'{words[0]} ') for name in COMMANDS) else ''
    if group and len(words) == 1:
        return f'{group!r} needs one more word; its commands:\n{overview(group)}'
    asked = ' '.join(words[:2]) if group else words[0]
    near = difflib.get_close_matches(asked, {*COMMANDS, *(name.partition(' ')[0] for name in COMMANDS)}, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else '.'
    return f'unknown command {asked!r}{hint} {len(COMMANDS)} are known; `stylenorm --help` lists them.'


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    try:
        return run(argv)
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run(argv: list[str] | None) -> int:
    """`main` without its error handling; a tool is imported only when it is named."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ('-h', '--help'):
        print(f'usage: stylenorm COMMAND ARGS\n\n{__doc__}\ncommands:\n{overview()}')
        return 0
    if len(words) > 1 and words[1] in ('-h', '--help') and find(words) is None and overview(words[0]):
        print(overview(words[0]))
        return 0
    name = find(words)
    if name is None:
        print(f'error: {unknown_command(words)}', file=sys.stderr)
        return 2
    folder = str(Path(__file__).resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as Python does for a script
    rest = words[len(name.split()) :]
    sys.argv = [f'stylenorm {name}', *rest]
    status = import_module(COMMANDS[name].script).main(rest)
    return status if isinstance(status, int) else 0


if __name__ == '__main__':
    sys.exit(main())
