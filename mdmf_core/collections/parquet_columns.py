"""Which columns of a parquet file hold images, keys, captions and URLs, found by their names in any case and by their types."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from mdmf_core.errors import ShardCorrupt

IMAGE_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "photo", "picture")
_KEY_COLUMNS = ("key", "__key__", "id", "image_id", "uid", "sample_id")
_CAPTION_COLUMNS = ("caption", "text", "prompt", "alt_text")
_URL_COLUMNS = ("url", "image_url")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns that are read."""

    image: str
    key: str | None
    caption: str | None
    url: str | None
    others: tuple[str, ...]  # go into the sidecar: all that hold no bytes

    @property
    def needed(self) -> list[str]:
        """All of them, each once."""
        named = (self.image, self.key, self.caption, self.url)
        return list(dict.fromkeys([name for name in named if name is not None] + list(self.others)))


def columns_of(schema: pa.Schema) -> Columns:
    """The columns of a file that are read, and as what.

    Raises:
        ShardCorrupt: no column holds images, or several may.
    """
    image = image_column(schema)
    others = tuple(field.name for field in schema if field.name != image and not _holds_bytes_anywhere(field.type))
    key, caption, url = (_first(schema, names) for names in (_KEY_COLUMNS, _CAPTION_COLUMNS, _URL_COLUMNS))
    return Columns(image, key, caption, url, others)


def image_column(schema: pa.Schema) -> str:
    """The column that holds the images: the first of the usual names with bytes, or else the only column with bytes.

    Raises:
        ShardCorrupt: there is none, or several of unusual names.
    """
    named = _named(schema, IMAGE_COLUMNS)
    holding = [name for name in named if holds_bytes(schema.field(name).type)]
    if holding:
        return holding[0]
    structs: list[str] = [field.name for field in schema if pa.types.is_struct(field.type) and _has_bytes(field)]
    plain: list[str] = [field.name for field in schema if not pa.types.is_struct(field.type) and _has_bytes(field)]
    for candidates in (structs, plain):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise ShardCorrupt(
                f"several columns hold bytes ({_listed(candidates)}) and none is called {_listed(IMAGE_COLUMNS)}: "
                "rename that of the images"
            )
    if named:
        kinds = ", ".join(f"{name} is {str(schema.field(name).type)[:60]}" for name in named)
        raise ShardCorrupt(f"no image column of bytes: {kinds}; binary is needed, or a struct with binary `bytes`")
    raise ShardCorrupt(f"no image column; looked for {', '.join(IMAGE_COLUMNS)} among {_listed(schema.names)}")


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold images: bytes of any layout, a struct with such ``bytes``, or nulls alone."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
    return pa.types.is_null(kind) or _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_bytes(kind.value_type)
    layouts = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(test(kind) for test in layouts)


def _has_bytes(field: pa.Field) -> bool:
    return holds_bytes(field.type) and not pa.types.is_null(field.type)


def _holds_bytes_anywhere(kind: pa.DataType) -> bool:
    """Whether bytes lie in a type at any depth: masks, thumbnails and embeddings, which are no text for a sidecar."""
    nested = [kind.field(number).type for number in range(kind.num_fields)]
    return _is_bytes(kind) or any(map(_holds_bytes_anywhere, nested))


def _named(schema: pa.Schema, usual: Sequence[str]) -> list[str]:
    """Columns by usual names, the best first; of spellings that differ in case the one in lower case."""
    counts = Counter(schema.names)
    spelled = {wanted: sorted((name for name in counts if name.lower() == wanted), reverse=True) for wanted in usual}
    return [name for wanted in usual for name in spelled[wanted] if counts[name] == 1]


def _first(schema: pa.Schema, usual: Sequence[str]) -> str | None:
    return next(iter(_named(schema, usual)), None)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
