"""The dependencies of pyproject.toml and of some of its extras, one a line, so that an image can install them before the code.

Run: python deploy/requirements.py pyproject.toml docker,kubernetes
"""

import sys
import tomllib
from pathlib import Path


def requirements(path: Path, extras: list[str]) -> list[str]:
    """All requirements.

    Raises:
        KeyError: there is no such extra.
    """
    project = tomllib.loads(path.read_text())["project"]
    return [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), [extra for extra in sys.argv[2].split(",") if extra])))
