"""Which addresses a webhook may be sent to.

The name of an endpoint is often given by somebody else. It may stand for an address inside our own network, and what
listens there trusts whoever reaches it. So a name is looked up once, its addresses are judged, and the connection goes
to one that passed: a second look-up, by the client library, could be answered differently.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NAT64 = IPv6Network("64:ff9b::/96")
"""An IPv4 address, as a network without IPv4 writes it."""
_COMPATIBLE = IPv6Network("::/96")
_SPECIAL_4 = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24")))
_SPECIAL_6 = tuple(map(IPv6Network, ("64:ff9b:1::/48", "3fff::/20", "5f00::/16")))
"""For protocols, examples and local translation. Not every Python knows them.

Source: https://www.iana.org/assignments/iana-ipv4-special-registry, https://www.iana.org/assignments/iana-ipv6-special-registry
"""
_PLATFORMS = frozenset({IPv4Address("168.63.129.16")})
"""Public by their number, but answered by the machine's own cloud: what Azure tells its machines."""


def forbidden(address: str) -> bool:
    """Whether *address* is not one of the public Internet.

    >>> [forbidden(each) for each in ("10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "100.64.0.1")]
    [True, True, True, True]
    >>> [forbidden(each) for each in ("1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101")]
    [False, False, False]
    """
    found = ip_address(address)
    if isinstance(found, IPv4Address):
        return _forbidden_4(found)
    inner = _inner(found)
    return _forbidden_6(found) if inner is None else _forbidden_4(inner)


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a packet to this one is sent to, where that is so."""
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def _forbidden_4(address: IPv4Address) -> bool:
    return (
        not address.is_global
        or address.is_multicast
        or address.is_reserved
        or address in _PLATFORMS
        or any(address in network for network in _SPECIAL_4)
    )


def _forbidden_6(address: IPv6Address) -> bool:
    return (
        not address.is_global
        or address.is_multicast
        or address.is_reserved
        or address.is_site_local
        or any(address in network for network in _SPECIAL_6)
    )
