"""Addresses of clients: who is behind the proxies, and whose neighbours count as one."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network
# A household or a server gets at least this much of IPv6; its addresses cost nothing.
_OWN_V6_BITS: Final = 64
# What a peer without an address, as on a Unix socket, is called.
UNKNOWN: Final = "unknown"


def client_address(peer: str | None, forwarded: str, trusted: Sequence[Network]) -> str:
    """The address that the nearest machine which is not a trusted proxy has.

    `forwarded` is X-Forwarded-For. It is read from the right and only as far as trusted proxies
    wrote it: everything further left, the client may have made up.
    """
    address = _parse(peer or "")
    if address is None:
        return UNKNOWN
    hops = forwarded.split(",") if forwarded else []
    while hops and _is_in(address, trusted):
        hop = _parse(hops.pop().strip())
        if hop is None:
            break
        address = hop
    return str(address)


def network_of(address: str) -> str:
    """What limits by address are kept by: an IPv4 address, or the /64 of an IPv6 one."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed), _OWN_V6_BITS), strict=False))
    return str(parsed) if parsed else address


def is_among(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks."""
    parsed = _parse(address)
    return parsed is not None and _is_in(parsed, networks)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, also with a port, brackets or a zone; IPv4 in IPv6 becomes IPv4."""
    host = text
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _is_in(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
