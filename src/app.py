"""A web page to try a network in: a picture in; its mask, a table of regions and downloads out.

python -m src.app weights=emisnet_kvasir
python -m src.app run=runs/... port=8000
"""

import importlib.util
import signal
import sys
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from omegaconf import DictConfig

from src.cli import ConfigError, entry_point
from src.config import check_number, plain, user_errors


def check_settings(config: dict[str, Any]) -> str:
    """Which network. ConfigError for what cannot work, before torch and Gradio are waited for."""
    given = [str(word) for word in (config["run"], config["weights"]) if word]
    if len(given) != 1:
        raise ConfigError("which network? Give one of run=<directory or file> and weights=<name or file>.")
    for key, lowest, highest in (("port", 0, 65535), ("max_upload_mb", 1, 10_000), ("max_pixels", 1024, 10**9)):
        value = config[key]
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ConfigError(f"{key}={value} is not possible; it is a whole number from {lowest} to {highest}.")
    with user_errors():
        check_number(config, "threads", 1, whole=True, optional=True)
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("gradio is not installed: it comes with the extra `app` (pip install 'gradio>=6.31').")
    return given[0]


def is_private(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False


def own_names(host: str) -> list[str]:
    """By which a page that only this machine reaches may be asked for; any, where others reach it."""
    return ["127.0.0.1", "localhost", "[::1]", host] if is_private(host) else ["*"]


def _run(cfg: DictConfig) -> None:
    with user_errors():
        config = plain(cfg)
        source = check_settings(config)
        host, port = str(config["host"]), config["port"]
        from src.build import pin_threads
        from src.data.decode import checked_intensity
        from src.webapp.server import opened, serving
        from src.webapp.session import MODES

        if config["mode"] not in MODES:
            raise ConfigError(f"mode={config['mode']} is not possible here. Use {', '.join(MODES)}.")
        if config["intensity"] is not None:
            checked_intensity(config["intensity"])
        pin_threads(config["threads"])
        with opened(host, port) as socket:
            looker = _looker(source, config)
            address = f"http://{f'[{host}]' if ':' in host else host}:{socket.getsockname()[1]}"
            print(f"{address}  (Ctrl+C stops it)", flush=True)
            if not is_private(host):
                print(
                    f"warning: host={host} opens this page to everyone who reaches this machine: no password, no "
                    "encryption. On a network that you do not trust, leave host out and use an SSH tunnel.",
                    file=sys.stderr,
                )
            limits = {"max_upload_mb": config["max_upload_mb"], "names": own_names(host)}
            for number in (signal.SIGTERM, signal.SIGHUP):  # by default they would end this before it has tidied up
                signal.signal(number, lambda number, _: sys.exit(128 + number))
            with serving(looker, mode=config["mode"], **limits) as server:
                server.run(sockets=[socket])


def _looker(source: str, config: dict[str, Any]) -> Any:
    from src.trained import open_trained
    from src.webapp.session import Looker

    keys = ("max_pixels", "threshold", "tile", "intensity", "device")
    return Looker(open_trained(source), **{key: config[key] for key in keys})


main = entry_point("app", _run)

if __name__ == "__main__":
    main()
