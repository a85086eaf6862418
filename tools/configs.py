"""Lists the shipped configs, or those whose names contain a text: configs.py [TEXT]."""

import argparse

import cli  # noqa: F401 (a source tree works without being installed)
from mistakes import command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = argparse.ArgumentParser(description=__doc__)
    own.add_argument('text', nargs='?', default='', help="such as 'snr' or 'cityscapes'")
    return own.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    from timm_stylenorm.runner.configs import list_configs

    every = list_configs()
    found = [name for name in every if args.text in name]
    if not found:
        raise ValueError(f'no config has {args.text!r} in its name; `stylenorm configs` lists all {len(every)}')
    print('\n'.join(found))


if __name__ == '__main__':
    main()
