"""Which addresses webhooks may reach, checked on the very address that is connected to.

A name is looked up here, once, and what it says a moment later does not matter.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpcore2
from anyio import CapacityLimiter
from anyio.to_thread import run_sync

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
"""IPv6 that a gateway turns into the IPv4 address in its last four bytes."""
_NOT_PUBLIC: tuple[Network, ...] = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("168.63.129.16/32"),  # the host of a virtual machine in Azure
    IPv6Network("64:ff9b:1::/48"),
    IPv6Network("2001::/23"),
    IPv6Network("3fff::/20"),
    IPv6Network("5f00::/16"),
    IPv6Network("fec0::/10"),
)
"""Those that some of Python's releases, or all, take for public."""
CONNECT_SECONDS = 3.0
"""For each address of a receiver."""
_LOOKUPS = 64
"""Threads that look up names at most: more than webhooks, for a lookup cannot be cut off."""


class AddressRefused(httpcore2.ConnectError):
    """The receiver's address is not one that webhooks may reach."""


def allowed(address: Address, private: Collection[Network]) -> bool:
    """Whether webhooks may reach an address: it is public, or in one of the networks."""
    real = _embedded(address)
    if any(real.version == network.version and real in network for network in private):
        return True
    if any(real.version == network.version and real in network for network in _NOT_PUBLIC):
        return False
    return real.is_global and not (real.is_multicast or real.is_reserved)


def literal(host: str) -> Address | None:
    """The address that a host of a URL is by itself; None: it is a name."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


class CheckedPeers(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that are allowed, and to nothing else."""

    def __init__(self, private: Collection[Network]) -> None:
        """
        Args:
            private: networks that may be reached although they are not public.
        """
        self._private = private
        self._tcp = httpcore2.AnyIOBackend()
        self._lookups = CapacityLimiter(_LOOKUPS)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = CONNECT_SECONDS,  # noqa: ASYNC109 - the backend's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address of `host` that is allowed and answers.

        Args:
            timeout: seconds for each address.

        Raises:
            AddressRefused: none is allowed.
            ConnectError: there is no such host, or none of them answers.
            ConnectTimeout: the last one takes too long.
        """
        found = await self._look_up(host, port)
        passed = [one for one in found if allowed(ip_address(one), self._private)]
        failed: Exception = AddressRefused(_refusal(host, found))
        for one in passed:
            try:
                stream = await self._tcp.connect_tcp(
                    one, port, timeout or CONNECT_SECONDS, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
                continue
            peer = str(stream.get_extra_info("server_addr")[0])
            if allowed(ip_address(peer), self._private):
                return stream
            await stream.aclose()
            failed = AddressRefused(_refusal(host, [peer]))
        raise failed

    async def _look_up(self, host: str, port: int) -> list[str]:
        def look_up() -> list[str]:
            rows = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(row[4][0]) for row in rows))

        try:
            return await run_sync(look_up, limiter=self._lookups, abandon_on_cancel=True)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} is not found: {error}") from error


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _refusal(host: str, found: Iterable[str]) -> str:
    return (
        f"{host} is at {', '.join(found)}, which is not a public address; "
        "MEMIT_WEBHOOK_ALLOW_PRIVATE names networks that are allowed all the same"
    )
