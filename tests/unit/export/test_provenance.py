"""What travels with an export: whole, and without the folders of whoever made it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from mlx_align.config import PATHS, REWARD_PATHS, RewardConfig, RunConfig
from mlx_align.errors import AlignError
from mlx_align.export.provenance import Provenance, base_name, without_folders
from mlx_align.rewards import REWARDS
from tests.unit.export.provenances import PROVENANCE


def test_provenance_survives_metadata() -> None:
    (text,) = PROVENANCE.metadata().values()
    assert Provenance.from_json(text) == PROVENANCE
    with pytest.raises(AlignError, match="provenance"):
        Provenance.from_json("{}")


def test_an_older_provenance_can_be_read() -> None:
    read = replace(PROVENANCE, positions={"list": "short", "border": 4096})
    assert Provenance.from_json(read.json()) == read
    before = {name: value for name, value in json.loads(read.json()).items() if name != "positions"}
    assert Provenance.from_json(json.dumps(before)) == PROVENANCE


@pytest.mark.parametrize("folder", ["/home/ann/acme", "~/acme", "./acme", "../acme", "clients/acme", "acme/"])
def test_no_folder_travels(folder: str) -> None:
    """However a path is written: relative ones name clients as well as whole ones do."""
    config = RunConfig.model_validate(
        {
            "model": {"path": f"{folder}/base"},
            "data": {"path": f"{folder}/rows.jsonl"},
            "adapter": {"start": f"{folder}/first/"},
            "runs": {"dir": f"{folder}/runs", "cache": f"{folder}/cache"},
        }
    )
    cut = without_folders(config, None)
    assert "acme" not in str(cut)
    assert (cut["model"]["path"], cut["data"]["path"]) == ("base", "rows.jsonl")
    assert (cut["adapter"]["start"], cut["runs"]) == ("first", {"dir": "runs", "cache": "cache"})


def test_rewards_keep_their_names_and_the_hubs() -> None:
    """`prepare` has made whole paths of a person's own files and folders."""
    tables = [
        {"name": "numeric"},
        {"name": "/home/ann/mine.py:score"},
        {"name": "python", "function": "/home/ann/mine.py:score"},
        {"name": "judge", "model": "/home/ann/judge", "rubric": "/short"},
        {"name": "judge", "model": "org/judge"},
    ]
    config = RunConfig(rewards=tuple(RewardConfig.model_validate(table) for table in tables))
    names = [
        (one["name"], one.get("function") or one.get("model"))
        for one in without_folders(config, None)["rewards"]
    ]
    assert names == [
        ("numeric", None),
        ("mine.py:score", None),
        ("python", "mine.py:score"),
        ("judge", "judge"),
        ("judge", "org/judge"),
    ]


def test_what_is_no_path_stays_as_it_is() -> None:
    config = RunConfig.model_validate(
        {"sampling": {"stop": ["/end", "~", "a/b"]}, "rewards": [{"name": "judge", "rubric": "/10 points"}]}
    )
    cut = without_folders(config, None)
    assert cut["sampling"]["stop"] == ["/end", "~", "a/b"]
    assert cut["rewards"][0]["rubric"] == "/10 points"


def test_a_base_is_the_hubs_if_it_came_from_there() -> None:
    """Its name does not tell: a folder may be called as a repository of a stranger's."""
    assert base_name("models/Qwen3-0.6B", None) == "Qwen3-0.6B"
    assert base_name("Qwen/Qwen3-0.6B", "c0ffee") == "Qwen/Qwen3-0.6B"
    config = RunConfig.model_validate({"model": {"path": "Qwen/Qwen3-0.6B"}})
    assert without_folders(config, "c0ffee")["model"]["path"] == "Qwen/Qwen3-0.6B"


def test_every_key_that_holds_a_path_is_known() -> None:
    said = {
        f"{section}.{name}"
        for section, field in RunConfig.model_fields.items()
        for name, key in getattr(field.annotation, "model_fields", {}).items()
        if re.search(r"\b(folder|file)\b", key.description or "")
    }
    assert said == set(PATHS)
    ways = [reward.options.model_construct(function="a.py:b").anywhere() for reward in REWARDS.values()]
    assert {"name", *(key for paths in ways for key in paths)} == set(REWARD_PATHS)
