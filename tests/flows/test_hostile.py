"""What hostile shards hold goes through the real flow: into SQL as it was, into HTML as text; and secrets go nowhere."""

import io
import json
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest
import s3fs
from fabricate import encoded, write_shard
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client

from mdmf import to_pandas as query
from mdmf_core.errors import MdmfError
from tasks.storage.filesystems import _block_options

HOSTILE = [
    "plain",
    "'); DROP TABLE scores; --",
    '"><script>alert(1)</script><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "a\nb\r\nc\ttab",
    "nul\0inside",
    "\U0001f600 \u202egpj\u202c \u2028",
    "=HYPERLINK(1)",
    "</style><style>@import'x'",
]
TEXTS = {  # bytes of a caption -> what SQL gives
    b"lone \xed\xa0\x80 surrogate": "lone \\xed\\xa0\\x80 surrogate",
    b"latin caf\xe9": "latin caf\\xe9",
}
SIDECARS = [
    json.dumps({"url": "https://e.org/'\"><script>", "note": "\ud800"}),
    '{"a\\u0000b": "x\\u0000y", "url": "u\\u0000v"}',
    '{"url": "\\ud800x", "a": 1}',
    '{"a": 1e999, "b": NaN, "c": -Infinity, "a": 2}',
    '{"n": ' + "9" * 5000 + "}",
    "[" * 50_000 + "]" * 50_000,
    '{"a": "raw\0nul"}',
    '"text"',
    "not json'); DROP TABLE images; --",
]


def hostile_shard(path: Path) -> dict[str, tuple[str, str]]:
    """A tar with a picture for each text; key -> (caption, sidecar) as they should come back."""
    expected = {}
    captions = [text.encode() for text in HOSTILE] + list(TEXTS)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for number, caption in enumerate(captions):
            text = HOSTILE[number % len(HOSTILE)]
            key = f"{number} {text}".replace("/", "_").replace(".", "_")
            sidecar = SIDECARS[number % len(SIDECARS)]
            for extension, data in (("jpg", encoded(number)), ("txt", caption), ("json", sidecar.encode())):
                member = tarfile.TarInfo("x")
                member.pax_headers = {"path": f"{key}.{extension}"}
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            expected[key] = (TEXTS.get(caption, caption.decode("utf-8", "ignore")), sidecar)
    return expected


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, tuple[str, ...]]] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add((tag, tuple(name for name, _ in attrs)))


def elements(page: str | None) -> set[tuple[str, tuple[str, ...]]]:
    parser = Elements()
    parser.feed(Path(page or "").read_text())
    return parser.found


def test_hostile_text_reaches_sql_as_it_was_and_html_as_text(curate, tmp_path):
    expected = hostile_shard(tmp_path / "00000.tar")
    result = curate(tmp_path / "00000.tar")
    assert result.scored == result.members == len(expected)
    # Text that is no JSON travels as a JSON string; ->>'$' gives it back.
    text = "CASE json_type(sidecar) WHEN 'VARCHAR' THEN sidecar->>'$' ELSE sidecar::VARCHAR END"
    rows = query(result.warehouse, f"SELECT key, caption, {text} AS sidecar, url FROM images")
    found = {row.key: (row.caption, row.sidecar) for row in rows.itertuples()}
    assert found == {key: (caption, "text" if sidecar == '"text"' else sidecar) for key, (caption, sidecar) in expected.items()}
    assert set(rows["url"].dropna()) >= {"https://e.org/'\"><script>", "u\0v", "\\ud800x"}

    plain = curate(write_shard(tmp_path / "plain.tar", range(20, 31)), warehouse=str(tmp_path / "plain.duckdb"))
    assert elements(result.report) == elements(plain.report)
    page = Path(result.report).read_text()
    assert 'http-equiv="Content-Security-Policy"' in page
    assert "default-src 'none'" in page
    assert "DROP TABLE" in page


SECRETS = {"key": "AKIAPLANTEDKEY", "secret": "planted/hush+hush"}


@pytest.fixture
def everything(curate, prefect_server, tmp_path, capfd, caplog):
    """A function that gives every byte that runs have left: files, logs, and what the server holds."""

    async def server() -> str:
        async with get_client() as client:
            kept = [await client.read_flow_runs(), await client.read_task_runs(), await client.read_artifacts()]
            return repr(kept) + repr(await client.read_logs())

    def gather(asyncio_run) -> bytes:
        out, err = capfd.readouterr()
        files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        return files + (out + err + caplog.text + asyncio_run(server())).encode()

    return gather


def test_secrets_reach_no_log_no_file_and_no_record(curate, everything, tmp_path, monkeypatch):
    import asyncio

    good = curate(write_shard(tmp_path / "00000.tar", range(2)))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRETS["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["secret"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    options = SECRETS | {"client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    Secret(value=options).save("planted", overwrite=True)
    _block_options.cache_clear()
    for block in (None, "planted"):
        with pytest.raises(MdmfError, match="s3://corpus"):
            curate("s3://corpus/{0..1}.tar", warehouse=good.warehouse, storage_block=block)
    left = everything(asyncio.run)
    assert b"s3://corpus" in left
    assert b"members" in left
    for value in (SECRETS["secret"], quote(SECRETS["secret"], safe=""), "hush+hush"):
        assert value.encode() not in left


def test_a_url_with_a_secret_starts_no_run(tmp_path):
    from typer.testing import CliRunner

    from mdmf_cli.main import app

    source = f"s3://{SECRETS['key']}:{SECRETS['secret']}@corpus/0.tar"
    result = CliRunner().invoke(app, ["curate", source, "--warehouse", str(tmp_path / "w.duckdb")])
    assert result.exit_code == 1
    assert "must not carry credentials" in result.output
    assert "hush" not in result.output
    assert not (tmp_path / "w.duckdb").exists()
