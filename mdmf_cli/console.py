"""The commands share these options, plain errors and tables."""

import atexit
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from mdmf_core.choices import EngineName
from mdmf_core.errors import MdmfError

console = Console()
errors = Console(stderr=True)
_FOLDED = 16  # characters of a column below which its cells are not folded

WarehouseOption = Annotated[str, typer.Option(help="The DuckDB file that holds the results, or a lake: ducklake:...")]
ScorerOption = Annotated[
    str,
    typer.Option(
        help="default, forensic (needs no weights), a scorer directory, clip-b16, or timm:MODEL?weights=FILE.safetensors"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
Block = Annotated[str | None, typer.Option(help="Prefect Secret block with fsspec options, in place of the AWS variables.")]


def _use_weights(file: Path | None) -> Path | None:
    """Makes a file the place of the default backbone's weights, for this command and the processes that it starts."""
    if file is not None:
        os.environ["MDMF_WEIGHTS"] = str(file.resolve())
    return file


WeightsOption = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, callback=_use_weights, help="The default backbone's weights, in place of the cache's copy."
    ),
]
EngineOption = Annotated[EngineName, typer.Option("--engine", help="Where shards are scored: this process, Ray or Dask.")]
EngineAddress = Annotated[str | None, typer.Option(help="A cluster that runs; one on this machine by default.")]
Cpus = Annotated[int, typer.Option(min=0, help="Cores of one group of shards; 0 = all (threads) or one (ray, dask).")]
Gpus = Annotated[float, typer.Option(min=0, help="GPUs of one group of shards, for ray and dask.")]


def each_of(choices: Any) -> Callable[[list[str] | None], list[str] | None]:
    """Checks an option that may be given again against a ``Literal``, which typer takes for single options only."""

    def checked(values: list[str] | None) -> list[str] | None:
        for value in values or ():
            if value not in get_args(choices):
                raise typer.BadParameter(f"{value!r} is not one of {', '.join(map(repr, get_args(choices)))}.")
        return values

    return checked


class Panel:
    """The headings of `mdmf --help`."""

    SCORE = "Score"
    USE = "Use the results"
    WHOLE = "Keep the warehouse whole"
    MAKE = "Make scorers and banks"
    LOOK = "Look around"


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors that are the user's to mend end in one sentence and status 1, without a traceback; Ctrl-C is answered at once."""
    logging.setLogRecordFactory(_record_of_log)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupted)
    try:
        yield
    except KeyboardInterrupt:
        # These stop server and decoders. What the interpreter clears after them takes tens of seconds on a busy machine.
        atexit._run_exitfuncs()
        os._exit(130)
    except (MdmfError, ValueError) as error:
        errors.print(f"[bold red]error:[/] {escaped(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _record_of_log(*arguments: Any, **named: Any) -> logging.LogRecord:
    """A log record that has no traceback where the error is the user's to mend: Prefect logs whatever ends a run with one."""
    record = logging.LogRecord(*arguments, **named)
    if record.exc_info and isinstance(record.exc_info[1], MdmfError | ValueError):
        record.exc_info = None
    return record


def _interrupted(*_: object) -> None:
    """Says that the command ends, lets it end in order, and makes the next Ctrl-C end the process there and then."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    errors.print("interrupted: ending within seconds; what is finished stays. Ctrl-C again ends at once.", highlight=False)
    raise KeyboardInterrupt


def escaped(text: str) -> str:
    """Escapes square brackets, which would be taken for markup."""
    return text.replace("[", r"\[")


def print_scored(result: Any) -> None:
    """Prints the accounting of a run in one line."""
    console.print(
        f"{result.members} members = {result.scored} scored + {result.excluded} excluded; {result.complete} shards complete, "
        f"{result.already_complete} complete before, {result.deferred} deferred, {result.failed} failed"
        + (f", {result.set_aside} failed before with the same bytes" if result.set_aside else "")
        + (f", {result.elsewhere} at work in another run" if result.elsewhere else "")
        + (f"; {result.wasted_seconds:.1f} s of scoring came to nothing" if result.wasted_seconds else ""),
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def say(text: str) -> None:
    """Prints one line as it is, without markup and without wrapping."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def print_rows(rows: list[dict[Any, Any]], columns: list[str]) -> None:
    """Prints rows as a table, numbers to four places; a line for each value where the columns would fold into a few letters."""
    cells = [[_cell(row[name]) for name in columns] for row in rows]
    widths = [min(_FOLDED, max(map(len, column))) for column in zip(columns, *cells, strict=True)]
    if rows and sum(widths) + 3 * len(columns) + 1 > console.width:
        longest = max(map(len, columns))
        for record in cells:
            say("\n".join(f"{name:<{longest}}  {cell}" for name, cell in zip(columns, record, strict=True)) + "\n")
        return
    table = Table(header_style="bold")
    for name in columns:
        numeric = bool(rows) and isinstance(rows[0][name], int | float)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for record in cells:
        table.add_row(*map(escaped, record))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas has nan for NULL in columns of text
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
