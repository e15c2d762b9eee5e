"""The server of the tests answers to its password alone, and is gone afterwards."""

import os
import socket
import subprocess

import pytest
from postgres_server import binaries, postgres_server, why_not


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_cluster_of_its_own_answers_to_its_password_and_ends_with_the_block(tmp_path):
    with postgres_server(tmp_path / "pg", "max_connections=17") as server:
        url = f"postgresql://{server.user}@127.0.0.1:{server.port}/{server.create('lake')}"
        ask = [str(binaries() / "psql"), "-w", "-At", url, "-c", "SHOW max_connections"]
        told = subprocess.run(ask, capture_output=True, text=True, env=os.environ | {"PGPASSWORD": server.password})
        assert told.stdout == "17\n"
        refused = subprocess.run(ask, capture_output=True, text=True, env=os.environ | {"PGPASSWORD": "wrong"})
        assert "authentication failed" in refused.stderr
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0
