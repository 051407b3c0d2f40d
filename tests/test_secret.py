"""No file of a run holds a key or a password."""

from pathlib import Path
from typing import Any

import pytest

from src.cli import ConfigError
from src.config import composed
from src.secret import check_secrets

KEY = "0123456789abcdef0123456789abcdef01234567"
SECRETS: list[dict[str, Any]] = [
    {"logger": {"api_key": "x"}},
    {"logger": {"WANDB_API_KEY": "x"}},
    {"a": [{"deep": [{"api_key": "x"}]}]},
    {"wandb_key": "x"},
    {"passwd": "x"},
    {"auth": "x"},
    {"credentials": "x"},
    {"access_key": "x"},
    {"api_key2": "x"},
    {"trainer": {"token": 5}},
    {"logger": {"url": "https://me:mine@host/path"}},
    {"tags": ["plain", f"before {KEY} after"]},
    {"logger": {"name": KEY}},
    {"remote": "https://ghp_0123456789@host/path"},
    {"token": {"of": "x"}},
    {"tags": {KEY: 1}},
    {"tags": {KEY: {}}},
    {"https://me:mine@host/": 1},
    *({name: "mine"} for name in ("PGPASSWORD", "MYSQL_PWD", "GITHUB_PAT", "DB_PASS")),
]


@pytest.mark.parametrize("config", SECRETS, ids=str)
def test_secrets_are_refused_and_not_repeated(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"every file of the run would hold it.*WANDB_API_KEY") as caught:
        check_secrets(config, {"WANDB_API_KEY": KEY})
    assert KEY not in str(caught.value) and "mine" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"logger": {"api_key": None}},
        {"monitor": "val/dice", "keyboard": "x", "author": "x", "tokenizer": 1, "key": "x"},
        {"url": "https://host:8080/path", "time": "12:30@noon"},
        {"tags": ["0123"], "seed": 0},
        {"model": {"class_token": True, "path": "x", "compass": "n"}},
    ],
)
def test_the_rest_is_not(config: dict[str, Any]) -> None:
    check_secrets(config, {"WANDB_API_KEY": KEY, "OTHER_TOKEN": "0", "HOME": "plain"})


def test_the_working_directory_is_none(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    check_secrets({"run_dir": str(runs / "a")}, {"PWD": str(tmp_path), "OLDPWD": str(runs)})


@pytest.mark.parametrize("key", ["tags=[{}]", "run_name={}", "study={}"])
def test_a_key_of_the_environment_is_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with pytest.raises(ConfigError, match="holds the value of WANDB_API_KEY"):
        composed(key.format('"${oc.env:WANDB_API_KEY}"'), f"runs={tmp_path}")


def test_no_shipped_config_is_refused() -> None:
    for overrides in (["logger=wandb"], ["logger=tensorboard"], ["data=kvasir_seg", "recipe=long"]):
        composed(*overrides)
