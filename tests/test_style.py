"""What the source holds to beyond the linter: short files, short functions, docstrings that can be read alone."""

import ast
from collections.abc import Iterator

import pytest
from fabricate import ROOT

PACKAGES = ("mdmf", "mdmf_cli", "flows", "tasks", "mdmf_core")
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 250, 60
CLIPPED = ("The same", "Of ", "For ", "As ", "Within ", "Those ", "Same ")


def sources() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()


def long_functions(source: str) -> list[str]:
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION]


def clipped_docstrings(source: str) -> list[str]:
    """Docstrings that open with a word which points at something outside of them."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    texts = (ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    return [text.splitlines()[0] for text in texts if text.startswith(CLIPPED)]


def test_files_are_at_most_250_lines():
    assert {name: source.count("\n") for name, source in sources() if source.count("\n") > MOST_LINES} == {}


def test_functions_are_at_most_60_lines():
    assert {name: long_functions(source) for name, source in sources() if long_functions(source)} == {}


def test_docstrings_can_be_read_alone():
    assert {name: clipped_docstrings(source) for name, source in sources() if clipped_docstrings(source)} == {}


@pytest.mark.parametrize("opening", CLIPPED)
def test_the_scan_sees_clipped_docstrings_and_long_functions(opening: str):
    assert clipped_docstrings(f'def f():\n    """{opening} a thing."""\n') == [f"{opening} a thing."]
    assert long_functions("def f():\n" + "    x = 1\n" * MOST_LINES_OF_A_FUNCTION) == ["f"]
    assert long_functions("def f():\n" + "    x = 1\n" * (MOST_LINES_OF_A_FUNCTION - 1)) == []
