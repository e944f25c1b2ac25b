"""Loopback addresses never go through a proxy, whatever HTTP_PROXY, HTTPS_PROXY or ALL_PROXY say.

A proxy stands on another machine, whose 127.0.0.1 is not ours. Every library that asks a service
or a tracking server (httpx and reqwest below the Tinker SDK, requests below MLflow, urllib), and
every child process, takes its exceptions from NO_PROXY. So they are named there. This is the one
thing that is set for the whole process, also in a notebook. It is only added to, only if a proxy is
set, and only by names of this machine, which nobody could want to reach by a proxy.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
EXCEPTIONS = ("NO_PROXY", "no_proxy")
"""Both are written: if they differ, requests and httpx heed the second, reqwest the first."""


def exempt_loopback(url: str | None = None) -> None:
    """Reach this machine, and the host of `url` if it is another of its names, directly."""
    if not proxies():
        return
    hosts = list(LOOPBACK)
    if url and is_loopback(url) and (host := urlsplit(url).hostname) not in hosts:
        hosts.append(str(host))
    given = {name: os.environ.get(name, "").strip() for name in EXCEPTIONS}
    either = next((text for text in given.values() if text), "")
    for name, text in given.items():
        known = [entry.strip() for entry in (text or either).split(",") if entry.strip()]
        new = [] if "*" in known else [host for host in hosts if host not in known]
        if new or not text:
            os.environ[name] = ",".join(known + new)


def proxies() -> dict[str, str]:
    """The environment's proxies by variable, as it spells them."""
    names = [spelled for name in PROXIES for spelled in (name, name.lower())]
    return {name: value for name in names if (value := os.environ.get(name))}


def is_loopback(url: str) -> bool:
    """Whether the host of `url` is this machine by address or by name."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def sdk_without_proxies(base_url: str) -> None:
    """Have the SDK's clients of a loopback `base_url` look at no proxy variable at all.

    NO_PROXY is not enough for httpx. If ALL_PROXY names a proxy that httpx cannot use (`socks5://`
    without the package socksio, `socks://` with it), a client cannot even be made, for any host.
    The SDK takes no client from its user. So the class that it makes them from learns the rule;
    clients of other hosts are made as before.
    """
    from tinker import _base_client

    if not is_loopback(base_url) or hasattr(_base_client.AsyncHttpxClientWrapper, "of_loopback"):
        return

    class Client(_base_client.AsyncHttpxClientWrapper):
        of_loopback = True

        def __init__(self, **options: Any) -> None:
            if is_loopback(str(options.get("base_url", ""))):
                options["trust_env"] = False
            super().__init__(**options)

    _base_client.AsyncHttpxClientWrapper = Client  # type: ignore[misc]  # see above
