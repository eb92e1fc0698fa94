"""The command line: the dashboard's jobs without a browser.

``python -m quant_core models | formats | weights | sensitivity | recipe | calibrate | evaluate | export | import |
speed | report | train | generate | check | runs | reproduce |
catalog``.
Progress goes to standard error, the answer to standard output (one JSON object with ``--json``). The exit code is 0, 1
for a failure, 2 for wrong usage, 3 where ``check`` found more than its limit, and 130 if it was interrupted, which also
cancels the job.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

from quant_core.cli import arguments
from quant_core.cli.terminal import complain
from quant_core.cli.work import UsageError
from quant_core.errors import QuantError
from quant_core.workspace import Workspace


def main(typed: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model may write what a terminal cannot show
    parser = arguments.parser()
    options = parser.parse_args(typed)
    try:
        workspace = Workspace(options.home, jobs=options.jobs)
    except QuantError as error:
        complain(error.message, error.hint)
        return 1
    try:
        command: Callable[[Workspace, argparse.Namespace], int] = options.command
        return command(workspace, options)
    except UsageError as error:
        parser.error(str(error))
    except QuantError as error:
        complain(error.message, error.hint)
        return 1
    except KeyboardInterrupt:
        complain("Interrupted.")
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough; Python must not complain while closing it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        workspace.close()


if __name__ == "__main__":
    sys.exit(main())
