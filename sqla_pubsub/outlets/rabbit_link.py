"""A connection to a node of RabbitMQ, of which every loss is told at once: what its two protocols have in common.

The usual clients keep what is sent while they connect again, or only log that it could not be written; an outlet must
know. So the frames and their encoding are theirs, and what is between is here: the connection, the waiting for answers
and confirmations, the signs of life.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Any

from sqla_pubsub.errors import ConfigurationError
from sqla_pubsub.outlet import OutletUnavailable
from sqla_pubsub.outlets.rabbit_address import Address

logger = logging.getLogger(__name__)


class RabbitLink(ABC):
    """One connection, used by coroutines of one event loop; once lost, it stays so.

    Args:
        address: The node.
        name: What the node shows as the name of this connection.
    """

    def __init__(self, address: Address, name: str) -> None:
        self.address = address
        self.name = name
        self.lost: str | None = None
        self.heartbeat = address.heartbeat
        self.heartbeats = 0
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._expected: set[asyncio.Future[Any]] = set()
        self._heard = 0.0

    async def open(self) -> None:
        """Connect and log in.

        Raises:
            OutletUnavailable: The node cannot be reached.
            ConfigurationError: It does not let us in.
        """
        address = self.address
        try:
            async with asyncio.timeout(address.timeout):
                reader, self._writer = await asyncio.open_connection(
                    address.host, address.port, ssl=address.tls
                )
        except (OSError, TimeoutError) as error:
            raise OutletUnavailable(f"{address} cannot be reached: {error or 'no answer'}") from error
        self._tasks.append(asyncio.create_task(self._read(reader)))
        await self._log_in()
        self._tasks.append(asyncio.create_task(self._beat()))

    async def close(self) -> None:
        """End it, in an orderly way where it is not lost. Never raises."""
        try:
            if self.lost is None and self._writer is not None:
                await self._say_goodbye()
        except OutletUnavailable as error:
            logger.debug("outlet.close_unanswered", extra={"reason": str(error)})
        finally:
            self.fail("it was closed")
            for task in self._tasks:
                task.cancel()
            if self._writer is not None:
                # Not awaited: what the other side has not taken by now, it need not have.
                self._writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def fail(self, reason: str) -> None:
        """Give the connection up: who waits for something hears *reason*, and who comes later too."""
        if self.lost is not None:
            return
        self.lost = f"{self.address}: {reason}"
        for future in list(self._expected):
            if not future.done():
                future.set_exception(OutletUnavailable(self.lost))
                # Of what nobody has begun to wait for, nobody is to be warned.
                future.exception()

    def check(self) -> None:
        """Raise where it is lost."""
        if self.lost is not None:
            raise OutletUnavailable(self.lost)

    def _expect(self) -> asyncio.Future[Any]:
        """Return what can be waited for, and ends with the connection."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._expected.add(future)
        future.add_done_callback(self._expected.discard)
        return future

    async def _wait(self, future: asyncio.Future[Any], data: bytes) -> Any:
        """Write, and wait for what is expected; too long a wait is a loss, which tells what is still missing."""
        try:
            async with asyncio.timeout(self.address.timeout):
                await self._write(data)
                return await future
        except TimeoutError:
            self.fail(f"{self._missing()} within {self.address.timeout:g} s")
            raise OutletUnavailable(self.lost) from None

    async def _write(self, data: bytes) -> None:
        self.check()
        if self._writer is None:
            raise OutletUnavailable(f"{self.address}: not connected")
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            self.fail(str(error) or type(error).__name__)
            raise OutletUnavailable(self.lost) from error

    async def _read(self, reader: asyncio.StreamReader) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                frame = await self._receive(reader)
                self._heard = loop.time()
                await self._take(frame)
        except asyncio.IncompleteReadError:
            self.fail("the other side has closed the connection")
        except Exception as error:
            # A frame that cannot be read too: nothing more is heard from here on.
            self.fail(str(error) or type(error).__name__)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while self.lost is None:
            await asyncio.sleep(self.heartbeat / 2)
            if loop.time() - self._heard > 2 * self.heartbeat + 1:
                self.fail(f"no sign of life for {2 * self.heartbeat} s")
            else:
                await self._write(self._sign_of_life())

    def _not_let_in(self, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.address} does not let us in: {reason}. Look at the url in the outlet's settings."
        )

    @abstractmethod
    def _missing(self) -> str:
        """Say what is being waited for, such as ``no answer``."""

    @abstractmethod
    def _sign_of_life(self) -> bytes:
        """Return a heartbeat."""

    @abstractmethod
    async def _log_in(self) -> None:
        """Agree with the node on who we are."""

    @abstractmethod
    async def _say_goodbye(self) -> None:
        """End the connection, and wait until the node has heard it."""

    @abstractmethod
    async def _receive(self, reader: asyncio.StreamReader) -> Any:
        """Return the next frame."""

    @abstractmethod
    async def _take(self, frame: Any) -> None:
        """Do what a frame asks for."""
