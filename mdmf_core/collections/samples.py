"""Samples of an archive: which files belong together, which of them are images, and under which key each image is known.

1. Files that follow one another and share the path up to the first dot of the base name are one sample, as WebDataset has it.
   Dots at the start of a base name belong to the name. What macOS and Windows leave behind (``._x``, ``.DS_Store``) is no part.
2. A file is an image when its extension is an image's, or when its first bytes are. Extensions of sidecars come first: a
   ``.json`` or ``.npy`` is never an image. In a sample with images all other files are sidecars; in one without, the first file
   that is no sidecar stands for the sample, so that a page in place of an image becomes a row that says so.
3. The key of a sample is the key of its image. Of several images the main one has it: ``KEY.jpg`` itself, or else
   ``KEY.image.png`` and its like. Every other image is known by its name without the last extension (``KEY.depth``), and so is
   every image of a sample without a main one. Base names with dots in them (``IMG.2024.01.02.jpg``) are told apart this way.
4. A run of files of one key that is too long for one sample (``MOST_IMAGES``, ``MOST_BYTES``) is such names: it is split where
   the name before the last extension changes, and has no main image.
5. Caption (``.txt``, ``.caption``) and ``.json`` of an image bear its name, or else the sample's key; the only caption of a
   sample is that of all its images.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mdmf_core.images.decode import sniff

CAPTIONS = ("txt", "caption")
# What WebDataset writers put beside an image.
SIDECARS = (*CAPTIONS, "json", "cls", "url", "npy", "id", "index", "meta")
IMAGE_EXTENSIONS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "heic", "heif", "avif", "jxl")
MOST_IMAGES, MOST_BYTES, MOST_FILES = 16, 64 << 20, 1000  # of one sample
MAX_SIDECAR = 1 << 20  # bytes; longer captions and json are left out
HEAD = 16  # bytes that tell an image
_SNIFFED = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")  # by signatures that no text begins with
_MAIN = ("image", "img", "rgb", "color", "photo", "picture", "original", "input")
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")


@dataclass(slots=True)
class SampleFile:
    """One file of an archive, as far as samples depend on it."""

    name: str
    size: int
    regular: bool  # not a link, device or sparse file
    data: bytes | memoryview = b""  # empty also when it was too large to be read
    raw: bytes = b""  # headers, data and padding, where the file is to be copied
    locator: int = 0
    why_not: str = ""  # why a file that is not regular is not read
    copied_for: str | None = None  # key of a wanted image, while it is copied
    key: str = field(init=False)  # of its sample
    stem: str = field(init=False)  # name without the last extension
    extension: str = field(init=False)  # the last one, in lower case
    is_image: bool = field(init=False)

    def __post_init__(self) -> None:
        self.key, self.stem, self.extension = split_name(self.name)
        self.is_image = self.regular and looks_like_image(self.extension, self.data)

    @property
    def is_sidecar(self) -> bool:
        """Whether its extension says that it describes an image."""
        return self.regular and self.extension in SIDECARS


@dataclass(slots=True)
class Sample:
    """The files of one key in the order of the archive; ``whole`` unless the run of files was too long for one sample."""

    files: list[SampleFile]
    whole: bool

    @property
    def key(self) -> str:
        """What all names have in common."""
        return self.files[0].key

    def members(self) -> list[tuple[str, SampleFile]]:
        """Key and file of every member: the images, or without any the file that stands for them, and what is not regular."""
        images = [file for file in self.files if file.is_image]
        unknown = [file for file in self.files if file.regular and not file.is_sidecar]
        shown = {id(file) for file in images or unknown}
        main = main_image([(file.stem[len(self.key) + 1 :], file) for file in images]) if images and self.whole else None
        members = []
        for file in self.files:
            if id(file) in shown or not file.regular:
                own_name = file is not main and (file.is_image or not self.whole)
                members.append((file.stem if own_name else self.key, file))
        return members

    def caption(self, image: SampleFile) -> str | None:
        """The caption of one of its images."""
        texts = [file for file in self.files if file.regular and file.extension in CAPTIONS]
        return _text(_beside(image, texts) or (texts[0] if len(texts) == 1 and self._shared(texts[0]) else None))

    def json(self, image: SampleFile) -> str | None:
        """The json of one of its images."""
        return _text(_beside(image, [file for file in self.files if file.regular and file.extension == "json"])) or None

    def copied(self, keys: Container[str]) -> list[SampleFile]:
        """The files to copy for members of these keys: with the main image all, else those of their names and shared ones."""
        if self.whole and self.key in keys:
            return self.files
        stems = {file.stem for key, file in self.members() if key in keys}
        return [file for file in self.files if file.stem in stems or (not file.is_image and self._shared(file))]

    def _shared(self, file: SampleFile) -> bool:
        return not any(image.is_image and file.stem in (image.stem, image.name) for image in self.files)


def samples(files: Iterable[SampleFile]) -> Iterator[Sample]:
    """Groups the files of an archive; holds one sample at a time."""
    group: list[SampleFile] = []
    split, images, unknown, held = False, 0, 0, 0
    for file in files:
        if group and (
            file.key != group[0].key
            or (split and file.stem != group[-1].stem)
            or (images and file.is_image and (images == MOST_IMAGES or held + file.size > MOST_BYTES))
            or held > MOST_BYTES
            or len(group) == MOST_FILES
        ):
            goes_on = file.key == group[0].key
            yield Sample(group, whole=not (split or goes_on))
            group, split, images, unknown, held = [], goes_on, 0, 0, 0
        if file.is_image:
            images += 1
        elif not file.is_sidecar:
            unknown += 1
            if images or unknown > 1:  # it stands for no sample, so that nobody asks for its data
                file.data = b""
        held += file.size if file.is_image or (file.is_sidecar and file.size <= MAX_SIDECAR) else 0
        group.append(file)
    if group:
        yield Sample(group, whole=not split)


def split_name(name: str) -> tuple[str, str, str]:
    """(key of the sample, name without its last extension, that extension) of a file in an archive.

    >>> split_name("a.b/000012.seg.PNG")
    ('a.b/000012', 'a.b/000012.seg', 'png')
    >>> split_name(".hidden.jpg"), split_name("plain")
    (('.hidden', '.hidden', 'jpg'), ('plain', 'plain', ''))
    """
    folder, slash, base = name.rpartition("/")
    dots = len(base) - len(base.lstrip("."))
    key, dot, rest = base[dots:].partition(".")
    middle, _, extension = rest.rpartition(".")
    stem = f"{base[:dots]}{key}{'.' if middle else ''}{middle}" if dot else base
    return folder + slash + base[:dots] + key, folder + slash + stem, extension.lower()


def is_litter(name: str) -> bool:
    """Whether an operating system left the file there, beside the files of people.

    >>> is_litter("a/._0001.jpg"), is_litter("a/.DS_Store"), is_litter("a/0001.jpg")
    (True, True, False)
    """
    *folders, base = name.split("/")
    return base.startswith("._") or base in _LITTER or "__MACOSX" in folders


def looks_like_image(extension: str, data: bytes | memoryview) -> bool:
    """Whether a file is an image by its extension (lower case) or its first bytes."""
    if extension in SIDECARS:
        return False
    return extension in IMAGE_EXTENSIONS or sniff(bytes(data[:HEAD])) in _SNIFFED


T = TypeVar("T")


def main_image(images: Sequence[tuple[str, T]]) -> T | None:
    """Which of a sample's images is the main one: the only one, ``KEY.jpg`` itself, or one by a usual name; None = none is.

    Args:
        images: what stands between key and extension (``depth`` of ``KEY.depth.png``), and the image.
    """
    if len(images) == 1:
        return images[0][1]
    for usual in ("", *_MAIN):
        for between, image in images:
            if between.lower() == usual:
                return image
    return None


def _beside(image: SampleFile, files: Sequence[SampleFile]) -> SampleFile | None:
    """The last of the files that bears the image's own name, or else the sample's key."""
    for stem in (image.stem, image.name, image.key):
        found = [file for file in files if file.stem == stem]
        if found:
            return found[-1]
    return None


def _text(file: SampleFile | None) -> str | None:
    if file is None or file.size > MAX_SIDECAR:
        return None
    return bytes(file.data).decode("utf-8", "backslashreplace")
