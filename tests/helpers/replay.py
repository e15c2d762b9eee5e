"""Transcripts in the documentation: run again and compared, or written anew.

A transcript is a fenced block `console`: lines that start with `$ ` are run in bash, the others are what they print. Numbers,
digests and the drawing of tables may differ from machine to machine; words may not.

Write the outputs anew: python tests/replay.py docs/banks.md DATA
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def environment(data: Path, folder: Path) -> dict[str, str]:
    """Gives the variables that the commands see: `mdmf` on the path, DATA, and a Prefect home of their own."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATA": str(data),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "COLUMNS": "110",
        "NO_COLOR": "1",
    }


def commands(block: str) -> list[tuple[str, str]]:
    """Gives the pairs (command, expected output) of a block."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def transcripts(page: Path) -> list[tuple[str, str]]:
    """Gives the pairs (command, expected output) of a page, in order."""
    return [pair for block in _BLOCK.findall(page.read_text()) for pair in commands(block)]


def run(command: str, folder: Path, data: Path, further: Mapping[str, str] | None = None) -> str:
    """Runs a command and gives what it prints to standard output; of a command that fails, standard error too.

    Args:
        further: variables beside those of ``environment``.
    """
    variables = environment(data, folder) | (further or {})
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=variables, capture_output=True, text=True, timeout=900)
    text = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    return re.sub(re.escape(str(folder)) + "/?", "", text)


def masked(text: str) -> str:
    """Reduces an output to its words: no numbers, digests, table lines or spacing."""
    text = re.sub(r"[─━│┃┏┓┗┛┡┩└┘┬┴┼╇┳╋├┤|]", " ", text)
    text = re.sub(r"\b[0-9a-f]{8,64}\b", "#", text)
    text = re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", text)
    return " ".join(text.split())


def prepared(folder: Path) -> Path:
    """Puts the bundled samples into a folder, as a clone has them."""
    (folder / "samples").symlink_to(ROOT / "samples")
    return folder


def written_anew(page: Path, folder: Path, data: Path, given: Mapping[str, str] | None = None) -> None:
    """Runs the commands of a page in ``folder`` and puts what they print into it.

    Args:
        given: values of the variables that the page exports.
    """
    text = page.read_text()
    for found in list(_BLOCK.finditer(text)):
        further, lines = exported(text[: text.index(found[1])], given or {}), []
        for command, _ in commands(found[1]):
            print(command, flush=True)
            lines.append(f"$ {command}\n{run(command, folder, data, further).rstrip()}\n")
        made = "".join(line.replace("\n\n", "\n") if line.endswith("\n\n") else line for line in lines)
        text = text.replace(found[1], made)
    page.write_text(text)


def exported(text: str, given: Mapping[str, str]) -> dict[str, str]:
    """Gives the variables that a text exports, with the values in ``given``."""
    lines = re.findall(r"^export (.*)$", text, re.MULTILINE)
    return {name: given[name] for line in lines for name in re.findall(r"\b([A-Z][A-Z0-9_]+)=", line)}


def with_exports(page: Path, given: Mapping[str, str]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Gives, in order, each command, its expected output, and the variables that the page has exported by then."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        for command, expected in commands(found[1]):
            yield command, expected, exported(text[: found.start()], given)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        written_anew(Path(sys.argv[1]), prepared(Path(name)), Path(sys.argv[2]).resolve())
