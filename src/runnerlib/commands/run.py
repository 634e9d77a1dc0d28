"""Run a job here, without a coordinator."""

import sys
from pathlib import Path

import click

_LONGEST_SPEC_BYTES = 16 * 1024**2


@click.command("run-spec")
@click.option(
    "--result",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the result, one JSON object, to this file.",
)
def run_spec(result: Path | None) -> None:
    """Run the frozen spec on standard input, a line of JSON; show its log; exit as the job exits.

    Exit codes besides the job's own: 1 refused, 124 timeout, 125 trouble of this host, 130 interrupted.
    """
    from runnerlib.spec import decode_spec, encode_line
    from runnerlib.standalone import EXIT_REFUSED, EXIT_TROUBLE, exit_code_of
    from runnerlib.standalone import run_spec as run_here

    try:
        spec = decode_spec(sys.stdin.buffer.readline(_LONGEST_SPEC_BYTES))
    except ValueError as error:
        click.echo(f"runnerlib: the spec is refused: {error}", err=True)
        sys.exit(EXIT_REFUSED)
    try:
        ended = run_here(spec, sys.stdout.fileno())
        if result is not None:
            result.write_bytes(encode_line(ended))
    except OSError as error:
        click.echo(f"runnerlib: no result could be written: {error.strerror or error}", err=True)
        sys.exit(EXIT_TROUBLE)
    sys.exit(exit_code_of(ended))
