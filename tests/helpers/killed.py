"""Run the program so that it gets a signal at a chosen moment.

    python killed.py SIGKILL scoring 70 score in.jsonl -o out.jsonl

A moment is what the program does and how often it has done so: `reading` rows, `scoring` rows,
`writing` bytes of results (so mostly within a line), or `replacing` files. Any other never comes.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path


def start(name, moment, n, arguments, **options):
    """Start this file as a program."""
    command = [sys.executable, str(Path(__file__)), name, moment, str(n), *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,
    )


def main():
    from quals_fast import QualsScorer
    from quals_fast.commands.app import main as program
    from quals_fast.jobs import inputs, resuming

    # As in a terminal: what a script starts in the background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _, name, moment, n, *arguments = sys.argv
    remaining = float(n)

    def tick(doing, times=1):
        nonlocal remaining
        if doing == moment:
            remaining -= times
            if remaining <= 0:
                os.kill(os.getpid(), signal.Signals[name])

    def read_rows(*args, real=inputs.read_rows, **kwargs):
        for row in real(*args, **kwargs):
            tick("reading")
            yield row

    def score(self, *args, on_progress, real=QualsScorer.score):
        def count(times):
            tick("scoring", times)
            on_progress(times)

        return real(self, *args, on_progress=count)

    def write(self, real=resuming.ResumableFile._write):
        text = "".join(self._waiting)
        if moment == "writing" and remaining < len(text):
            self._waiting = [text[: int(remaining)]]
            real(self)
        tick("writing", len(text))
        real(self)

    def replace(*args, real=os.replace):
        tick("replacing")
        real(*args)

    inputs.read_rows = read_rows
    QualsScorer.score = score
    resuming.ResumableFile._write = write
    os.replace = replace
    sys.argv = ["quals-fast", *arguments]
    program()


if __name__ == "__main__":
    main()
