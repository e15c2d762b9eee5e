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
from pathlib import Path

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def environment(data: Path, folder: Path) -> dict[str, str]:
    """What the commands see: `mdmf` on the path, DATA, and a Prefect home of their own."""
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
    """(command, expected output) pairs of a block."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def transcripts(page: Path) -> list[tuple[str, str]]:
    """All (command, expected output) pairs of a page, in order."""
    return [pair for block in _BLOCK.findall(page.read_text()) for pair in commands(block)]


def run(command: str, folder: Path, data: Path) -> str:
    """What a command prints, standard error left out; a failing command may be part of a transcript."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(data, folder), capture_output=True, text=True, timeout=900
    )
    text = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    return re.sub(re.escape(str(folder)) + "/?", "", text)


def masked(text: str) -> str:
    """The words of an output: no numbers, digests, table lines or spacing."""
    text = re.sub(r"[─━│┃┏┓┗┛┡┩└┘┬┴┼╇┳╋├┤|]", " ", text)
    text = re.sub(r"\b[0-9a-f]{8,64}\b", "#", text)
    text = re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", text)
    return " ".join(text.split())


def prepared(folder: Path) -> Path:
    """A folder with the bundled samples, as a clone has them."""
    (folder / "samples").symlink_to(ROOT / "samples")
    return folder


def main(page: Path, data: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = prepared(Path(name))
        text = page.read_text()
        for block in _BLOCK.findall(text):
            lines = []
            for command, _ in commands(block):
                print(command, flush=True)
                lines.append(f"$ {command}\n{run(command, folder, data).rstrip()}\n")
            text = text.replace(block, "".join(line.replace("\n\n", "\n") if line.endswith("\n\n") else line for line in lines))
        page.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve())
