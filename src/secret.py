"""Keys and passwords: no file of a run may hold them, since runs are handed on."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

NAME = re.compile(
    r"(^|_)((api|access|secret|private|wandb|auth)_?key\d*|token|pat|(pg)?passw(or)?d|pass|passphrase|secrets?|credentials?"
    r"|auth)$|_pwd$",  # PWD is the working directory
    re.I,
)
IN_ADDRESS = re.compile(r"://[^/\s:@]+:[^/\s@]+@|\b(https?|git)://[^/\s@]+@")  # user:password@host, token@host
SHORTEST = 8  # characters of a value in the environment that is looked for: shorter ones stand in anything


def check_secrets(config: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
    """ValueError for a value, at any depth, whose key is called like a secret, that is an address with a password, or
    that holds what an environment variable called like a secret has."""
    environment = os.environ if environment is None else environment
    held = {name: text for name, text in environment.items() if NAME.search(name) and len(text) >= SHORTEST}
    for key, value in _values(config, ""):
        text = f"{key} {value}"
        found = next((name for name, secret in held.items() if secret in text), "")
        named = type(value) in (str, int, float) and value != "" and any(NAME.search(part) for part in key.split("."))
        if named or IN_ADDRESS.search(text) or found:
            place = IN_ADDRESS.split(key.partition(held[found])[0] if found else key)[0]  # the key may hold it itself
            what = f"{place} holds the value of {found}" if found else f"{place} is given"
            raise ValueError(
                f"{what}, and every file of the run would hold it. Leave it out and set it in the environment "
                "(WANDB_API_KEY for W&B)."
            )


def _values(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Each plain value with its dotted key; the items of a list have that of the list."""
    if isinstance(node, Mapping) and node:
        for name, child in node.items():
            yield from _values(child, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list | tuple) and node:
        for child in node:
            yield from _values(child, key)
    else:
        yield key, node
