"""What senders to queues and to streams of RabbitMQ have in common: a connection on a loop in a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from sqla_pubsub.outlet import OutletUnavailable, Sender
from sqla_pubsub.outlets.loop import LoopThread
from sqla_pubsub.outlets.rabbit_address import Address
from sqla_pubsub.outlets.rabbit_link import RabbitLink

T = TypeVar("T")
LinkT = TypeVar("LinkT", bound=RabbitLink)

logger = logging.getLogger(__name__)


class RabbitSender(Sender, Generic[LinkT]):
    """A sender with at most one connection.

    Args:
        address: The node.
        name: Of the thread, and of the connection.
    """

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._name = name
        self._loop: LoopThread | None = None
        self._link: LinkT | None = None

    def close(self) -> None:
        """Give up the connection."""
        loop, link = self._loop, self._link
        self._loop = self._link = None
        if loop is None:
            return
        try:
            if link is not None:
                loop.run(link.close(), self._address.timeout + 1)
        except OutletUnavailable as error:
            logger.debug("outlet.close_failed", extra={"reason": str(error)})
        finally:
            loop.close()

    def _begin(self, opening: Coroutine[Any, Any, T], answers: int) -> T:
        """Run *opening* on a loop of its own, which stays if it succeeds."""
        self._loop = LoopThread(f"outlet-{self._name}")
        try:
            return self._run(opening, answers)
        except BaseException:
            self.close()
            raise

    def _run(self, coroutine: Coroutine[Any, Any, T], answers: int) -> T:
        """Run a coroutine that waits for so many answers at most."""
        if self._loop is None:
            coroutine.close()
            raise OutletUnavailable(f"{self._address}: not connected")
        # Longer than the times of the link itself, which tell better what is missing.
        return self._loop.run(coroutine, self._address.timeout * (answers + 1) + 1)

    def _connected(self) -> LinkT:
        if self._link is None:
            raise OutletUnavailable(f"{self._address}: not connected")
        self._link.check()
        return self._link
