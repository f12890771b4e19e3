"""A value that one part of the service sets and any number of others read, who never hold it up."""

import asyncio


class Latest:
    """The newest of a series of texts. Who reads slowly misses those between; nothing is kept for anybody."""

    def __init__(self, text: str = "") -> None:
        self.text, self.number = text, 0
        self._next = asyncio.Event()

    def set(self, text: str) -> None:
        """Replace the text, and wake those that wait for it."""
        self.text, self.number = text, self.number + 1
        self._next.set()
        self._next = asyncio.Event()

    async def after(self, number: int) -> None:
        """Wait until the newest text is not the one with this number."""
        if self.number == number:
            await self._next.wait()
