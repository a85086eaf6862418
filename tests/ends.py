"""How a tool ends, in this process."""


def status_of(main, argv):
    """What the exit status of the process would be."""
    try:
        return main(argv)
    except SystemExit as end:
        return end.code
