"""Asks quickly whether the model hub can be reached, so that a name that needs it fails at once."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit


class Unreachable(OSError):
    """The hub is needed and cannot be reached."""


def check_hub(what: str, seconds: float = 3.0) -> None:
    """Checks that the hub answers; a machine behind a proxy is trusted to reach it."""
    from huggingface_hub import constants

    advice = "download it where there is a connection and give the folder or file"
    if constants.HF_HUB_OFFLINE:
        raise Unreachable(f"{what} is not on this machine, and HF_HUB_OFFLINE is set; {advice}")
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    address = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((address.hostname, address.port or 443), timeout=seconds):
            return
    except OSError as error:
        raise Unreachable(
            f"{what} is not on this machine, and {address.hostname} cannot be reached ({error}); {advice}"
        ) from None
