"""The command `kaggle-hw4`, the same as `python -m kaggle_hw4`."""

import sys


def main() -> None:
    """Run the program. Ctrl-C while it is still being loaded ends it as later on."""
    try:
        from kaggle_hw4 import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
