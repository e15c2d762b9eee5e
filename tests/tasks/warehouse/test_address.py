"""What the address of a warehouse may be."""

import os

import pytest

from mdmf_core.errors import SourceError, WarehouseError
from tasks.warehouse.address import Embedded, Lake, address
from tasks.warehouse.warehouse import Warehouse


def test_a_path_is_an_embedded_warehouse_and_what_belongs_to_it_lies_beside():
    assert address("w.duckdb") == Embedded(os.path.abspath("w.duckdb"))
    assert Warehouse.at("/data/w.duckdb").parts == "/data/w.duckdb.parts"
    assert Warehouse.at("/data/w.duckdb").leases == "/data/w.duckdb.parts/leases"
    assert Warehouse.at("/data/w.duckdb").report == "/data/w.duckdb.report"


@pytest.mark.parametrize(
    ("text", "lake"),
    [
        ("ducklake:sqlite:/c/w.sqlite?data=/d/lake/", Lake("sqlite", "/c/w.sqlite", "/d/lake")),
        ("ducklake:sqlite:w.sqlite?data=lake", Lake("sqlite", os.path.abspath("w.sqlite"), os.path.abspath("lake"))),
        (
            "ducklake:postgres:host=db dbname=lake?data=s3://bucket/lake/",
            Lake("postgres", "host=db dbname=lake", "s3://bucket/lake"),
        ),
        (
            "ducklake:postgres:postgresql://ana@db:5432/lake?sslmode=require?data=s3://b",
            Lake("postgres", "postgresql://ana@db:5432/lake?sslmode=require", "s3://b"),
        ),
    ],
)
def test_a_lake_is_a_catalog_and_a_folder_of_data(text, lake):
    assert address(text) == lake
    assert address(lake.name) == lake


def test_what_belongs_to_a_lake_lies_beside_its_data_and_never_in_it():
    assert Warehouse.at("ducklake:postgres:dbname=l?data=s3://bucket/lake/").parts == "s3://bucket/lake.parts"
    assert Warehouse.at("ducklake:sqlite:/w?data=/d/lake").leases == "/d/lake.parts/leases"


@pytest.mark.parametrize(
    "text",
    [
        "ducklake:sqlite:/w.sqlite", "ducklake:mysql:db=x?data=/d", "ducklake:sqlite:?data=/d", "ducklake:sqlite:/w?data=",
        "ducklake:/w?data=/d", "ducklake:sqlite:/w?data=/d&encrypted=1", "s3://bucket/w.duckdb", "postgres://h/w",
    ],
)  # fmt: skip
def test_other_forms_are_refused_with_those_that_are_allowed(text):
    with pytest.raises(WarehouseError, match=r"ducklake:postgres:CONNECTION\?data=FOLDER"):
        address(text)


@pytest.mark.parametrize(
    "text",
    [
        "ducklake:postgres:host=db password=hush dbname=l?data=/d", "ducklake:postgres:host=db PASSWORD = hush?data=/d",
        "ducklake:postgres:postgresql://ana:hush@db/l?data=/d", "ducklake:sqlite:/w?data=s3://KEY:hush@bucket/lake",
    ],
)  # fmt: skip
def test_a_password_in_it_is_refused_and_not_repeated(text):
    with pytest.raises((WarehouseError, SourceError), match=r"PGPASSWORD|AWS variables") as refused:
        address(text)
    assert "hush" not in str(refused.value)
