"""``python -m serve_app [flags]`` is ``synchuman serve [flags]``; other commands work too."""

import sys

from serve_app.cli.main import COMMANDS, main

words = sys.argv[1:]
if not words or words[0] not in COMMANDS:
    words = ["serve", *words]
if __name__ == "__main__":
    sys.exit(main(words))
