"""A region around functions, methods, generators and async functions."""

from __future__ import annotations

import asyncio

import torch

import sll
from oracles import grads, leaf


def test_athrow_reaches_the_async_generator():
    log = []

    @sll.enable(eps=0.5)
    async def stream():
        x = leaf(0.0)
        try:
            yield 1
        except KeyError:
            log.append("caught")
            yield grads(torch.sign(x), x)
        finally:
            log.append(grads(torch.sign(x), x))

    async def main():
        g = stream()
        assert await g.__anext__() == 1
        assert await g.athrow(KeyError()) == [2.0]
        await g.aclose()

    asyncio.run(main())
    assert log == ["caught", [2.0]]
