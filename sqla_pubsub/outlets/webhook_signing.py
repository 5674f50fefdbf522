"""Signatures of Standard Webhooks 1.0.0: who receives one knows who sent it, and when.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Sequence

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import OutletSettings

PREFIX = "whsec_"
SHORTEST, LONGEST = 24, 64
"""Bytes of a secret, as the specification wants it."""

_MAKE_ONE = "Make one with: python -c \"import base64, os; print('whsec_' + base64.b64encode(os.urandom(32)).decode())\""


def keys(settings: OutletSettings) -> tuple[bytes, ...]:
    """Return the keys of the secrets in *settings*: one, or several while they are exchanged.

    The environment goes first, as it does for addresses: ``SQLA_PUBSUB_NAME_SECRET``, several with spaces between them.

    Raises:
        ConfigurationError: There is none, or one is not as the specification wants it. It shows none.
    """
    variable = f"SQLA_PUBSUB_{settings.name.upper()}_SECRET"
    place = f"[tool.sqla-pubsub.outlets.{settings.name}]"
    given: object = settings.options.get("secret")
    if in_environment := os.environ.get(variable, "").split():
        place, given = variable, in_environment
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list) or not found:
        raise ConfigurationError(
            f"there is no secret to sign with. Set {variable}, or write secret = 'whsec_...' into {place}. {_MAKE_ONE}"
        )
    return tuple(_key(secret, number, place) for number, secret in enumerate(found, start=1))


def signed(identifier: str, timestamp: int, body: bytes, signers: Sequence[bytes]) -> dict[str, str]:
    """Return the headers of a webhook.

    Args:
        identifier: The same in every try.
        timestamp: When this try is made, in seconds since 1970.
        body: What is sent.
        signers: Whose signatures stand there, each by itself.
    """
    content = f"{identifier}.{timestamp}.".encode() + body
    signatures = (hmac.new(key, content, hashlib.sha256).digest() for key in signers)
    return {
        "webhook-id": identifier,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{b64encode(each).decode()}" for each in signatures),
    }


def _key(secret: object, number: int, place: str) -> bytes:
    if not isinstance(secret, str) or not secret.startswith(PREFIX):
        raise ConfigurationError(f"secret {number} of {place} does not begin with {PREFIX!r}. {_MAKE_ONE}")
    encoded = secret.removeprefix(PREFIX)
    try:
        # Some write it without the signs that fill it up.
        key = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        # Without its cause, which may show parts of it.
        raise ConfigurationError(
            f"secret {number} of {place} is not base64 after {PREFIX!r}. {_MAKE_ONE}"
        ) from None
    if not SHORTEST <= len(key) <= LONGEST:
        raise ConfigurationError(
            f"secret {number} of {place} has {len(key)} bytes. "
            f"Standard Webhooks wants {SHORTEST} to {LONGEST}. {_MAKE_ONE}"
        )
    return key
