"""What the source itself must not do."""

import ast

import pytest
from fabricate import ROOT

PACKAGES = ("mdmf_core", "tasks", "flows", "mdmf_cli", "scorers", "samples", "benchmarks", "warehouse")
DECODE = ("mdmf_core.images.decode", "mdmf_core.images.decode.decode")
FILE_READERS = ("Image.open", ".imread")
DECODERS = ("PIL.ImageFile", "cv2", "imageio", "torchvision.io", "skimage.io")
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def faults(source: str) -> list[str]:
    """Each call or import that could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in UNPICKLING]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module for _ in [0] if node.module and node.module.partition(".")[0] in UNPICKLING]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            unsafe = (
                name in ("eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "pd.read_pickle")
                or (name.endswith("torch.load") and given.get("weights_only") != "True")
                or given.get("allow_pickle", "False") != "False"
                or given.get("shell", "False") != "False"
            )
            found += [ast.unparse(node)] if unsafe else []
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load('x', allow_pickle=True)",
        "eval('1')",
        "yaml.load(text)",
        "subprocess.run('ls', shell=True)",
    ],
)
def test_the_scan_sees(source):
    assert faults(source)


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 60
    assert {str(path.relative_to(ROOT)): faults(path.read_text()) for path in files if faults(path.read_text())} == {}


def test_servers_are_told_to_bind_to_loopback():
    """Every process that the project starts as a server, by the words in its source."""
    texts = {path: path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    starts = [path for path, text in texts.items() if '"server", "start"' in text]
    assert sorted(path.name for path in starts) == ["local_prefect.py", "stub.py"]
    assert all('"--host", "127.0.0.1"' in texts[path] for path in starts)
    assert "0.0.0.0" not in "".join(texts.values())


def decodings(source: str) -> list[str]:
    """Each import or use of something that decodes image files."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        else:
            continue
        found += [
            name for name in names if name.endswith(("Image.open", ".imread")) or name in DECODE or name.startswith(DECODERS)
        ]
    return found


@pytest.mark.parametrize(
    "source",
    [
        "from mdmf_core.images.decode import ImageLimits, decode",
        "from mdmf_core.images import decode",
        "import mdmf_core.images.decode as d",
        "from PIL.Image import open",
        "Image.open(path)",
        "import PIL.Image\nPIL.Image.open",
        "from PIL import ImageFile",
        "import cv2",
        "from imageio.v3 import imread",
        "plt.imread(path)",
    ],
)
def test_the_scan_sees_who_decodes(source):
    assert decodings(source)


def test_foreign_images_are_decoded_in_the_decoders_process_alone():
    files = [path for package in ("mdmf_core", "tasks", "flows", "mdmf_cli", "mdmf") for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 60
    found = {str(path.relative_to(ROOT)): set(decodings(path.read_text())) for path in files}
    assert {path: names for path, names in found.items() if names} == {
        "mdmf_core/images/decode.py": {"Image.open"},
        "mdmf_core/images/reencode.py": {"Image.open"},  # of the file that it wrote itself
        "tasks/scoring/decoder_process.py": {"mdmf_core.images.decode.decode"},
    }
