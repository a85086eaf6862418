"""Convert a checkpoint of another project to timm's or mmseg's keys, or back.

Without an output file, it only prints what it would do.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disk import write_text
from mistakes import command

if TYPE_CHECKING:
    from timm_stylenorm.convert import Conversion

EXAMPLE = 'tools/convert_checkpoint.py resnet50_ibn_a.pth resnet50_ibn_a.safetensors --verify'


class ListSources(argparse.Action):
    """Prints the known sources of checkpoints, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        from timm_stylenorm.convert import SOURCES

        print('\n'.join(f'{name:12} {row.title}' for name, row in SOURCES.items()))
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    raw = argparse.RawDescriptionHelpFormatter
    own = argparse.ArgumentParser(description=__doc__, epilog=f'For example {EXAMPLE}', formatter_class=raw)
    own.add_argument('input', help='checkpoint of torch, or .safetensors')
    own.add_argument('output', nargs='?', help='.pth or .safetensors')
    own.add_argument('--from', dest='source', metavar='SOURCE', help='whose keys these are, if not found out')
    own.add_argument('--sources', nargs=0, action=ListSources, help='list the sources, and end')
    own.add_argument('--to', default='timm', metavar='TARGET', help='timm (default), or mmseg for a bare backbone')
    own.add_argument('--export', metavar='SOURCE', help='write the keys of this source from ours')
    own.add_argument('--verify', nargs='?', const='', metavar='MODEL', help='load into the timm model of that name')
    own.add_argument('--part', metavar='NAME', help='entry of the file that holds the weights, if not found out')
    own.add_argument('--prefix', default='', help="put before every key: 'backbone.' for mmengine's load_from")
    own.add_argument('--drop-classifier', action='store_true', help='for a model with other classes')
    own.add_argument('--plain', action='store_true', help='without auxiliary batch norms and attached style layers')
    own.add_argument('--report', metavar='FILE', help='write there what became of every key')
    own.add_argument('--force', action='store_true', help='overwrite the output')
    return own


def check(args: argparse.Namespace) -> None:
    """Reject invalid combinations of arguments before anything is read."""
    from timm_stylenorm.convert import SUFFIXES

    converts = args.source or args.to != 'timm' or args.verify is not None or args.drop_classifier or args.plain
    if args.export and converts:
        raise ValueError('--export goes with none of --from, --to, --verify, --drop-classifier, --plain')
    if args.to == 'mmseg' and args.verify is not None:
        raise ValueError('--verify builds timm models: leave it out with --to mmseg')
    if args.to == 'mmseg' and args.output and not args.output.endswith('.pth'):
        raise ValueError(f"mmengine reads .pth, not '{args.output}'")
    if args.output and Path(args.output).suffix not in SUFFIXES:
        raise ValueError(f"'{args.output}': the name of the output ends in {' or '.join(SUFFIXES)}")
    if args.report and args.output and Path(args.report).resolve() == Path(args.output).resolve():
        raise ValueError('--report and the output are the same file')
    if args.output and not args.force and Path(args.output).exists():
        raise FileExistsError(f"'{args.output}' exists already; overwrite it with --force")


def run(args: argparse.Namespace) -> Conversion:
    """Read, convert, verify, write."""
    from timm_stylenorm.convert import convert, export, read_checkpoint, verify, write_state_dict

    check(args)
    checkpoint = read_checkpoint(args.input, args.part)
    if args.export:
        result = export(checkpoint.state_dict, args.export)
    else:
        result = convert(checkpoint.state_dict, args.source, args.to, args.drop_classifier, args.plain)
    if checkpoint.beside:
        result.report.notes.append(f'read {checkpoint.part!r}; left in the file: {", ".join(checkpoint.beside)}')
    if args.verify is not None:
        model = verify(result, args.verify or None)
        result.report.notes.append(f'every key fits {args.verify or result.model} ({type(model).__name__})')
    if args.output:
        state = {f'{args.prefix}{key}': value for key, value in result.state_dict.items()}
        write_state_dict(args.output, state, args.force)
    if args.report:
        write_text(Path(args.report), f'{result.report}\n')
    return result


@command
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    args = parser().parse_args(argv)
    result = run(args)
    print(result.report.summary())
    for line in result.report.lines(every=False):
        print(f'  {line}')
    print(f'wrote {args.output}' if args.output else 'wrote nothing: no output file was named')


if __name__ == '__main__':
    main()
