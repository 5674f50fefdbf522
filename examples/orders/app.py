"""The web application: a page that shows orders as they change, and the few requests that it makes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from examples.orders import listeners
from examples.orders.board import Board
from examples.orders.models import STATES, Base, Customer, Invoice, Order
from sqla_pubsub.asyncio import AsyncListener

router = APIRouter()
PAGE = (FilePath(__file__).parent / "page.html").read_text(encoding="utf-8")
EMBEDDED = ("tell_pages",)
"""Listeners that run in the web processes; the others are run by ``sqla-pubsub listen``."""


HIGHEST = 2**31 - 1
Name = Annotated[str, Field(min_length=1, max_length=100, pattern="^[^\x00]*$")]
OrderId = Annotated[int, Path(ge=1, le=HIGHEST)]


class NewOrder(BaseModel):
    customer: Name
    item: Name
    cents: int = Field(gt=0, le=HIGHEST)


def application(url: str) -> FastAPI:
    """Return the application on the database of this URL, for asyncpg."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.engine = engine = create_async_engine(url)
        listener = AsyncListener(engine, Base.metadata, listeners=EMBEDDED)
        async with Board(engine, listeners.CHANNEL) as app.state.board, listener.running():
            yield
        await engine.dispose()

    app = FastAPI(title="Orders", lifespan=lifespan)
    app.include_router(router)
    return app


async def session_of(request: Request) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(request.app.state.engine) as session, session.begin():
        yield session


# Committed before the answer leaves: who is told of an order finds it.
Db = Annotated[AsyncSession, Depends(session_of, scope="function")]


@router.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


@router.get("/orders")
async def orders(session: Db) -> list[dict[str, Any]]:
    return [order async for order in shown(session)]


@router.post("/orders", status_code=201)
async def place(new: NewOrder, session: Db) -> dict[str, int]:
    # Two first orders of a customer may come at the same time.
    await session.execute(insert(Customer).values(name=new.customer).on_conflict_do_nothing())
    customer = await session.scalar(select(Customer.id).where(Customer.name == new.customer))
    order = Order(customer_id=customer, item=new.item, cents=new.cents)
    session.add(order)
    await session.flush()
    return {"id": order.id}


@router.post("/orders/{order_id}/next", status_code=204)
async def move_on(order_id: OrderId, session: Db) -> None:
    order = await session.get(Order, order_id, with_for_update=True)
    if order is None:
        raise HTTPException(404, f"There is no order {order_id}.")
    if order.state == STATES[-1]:
        raise HTTPException(409, f"Order {order_id} is {order.state}, and nothing comes after that.")
    order.state = STATES[STATES.index(order.state) + 1]


@router.get("/changes")
async def changes(request: Request) -> StreamingResponse:
    """Each order that changes, as it is then: server-sent events."""
    return StreamingResponse(stream(request.app), media_type="text/event-stream")


async def stream(app: FastAPI) -> AsyncIterator[str]:
    async with app.state.board.following() as changed:
        # What the page has asked for before may be old by now.
        yield "event: ready\ndata: {}\n\n"
        async for order_id in changed:
            async with AsyncSession(app.state.engine) as session:
                async for order in shown(session, order_id):
                    yield f"data: {json.dumps(order)}\n\n"


async def shown(session: AsyncSession, order_id: int | None = None) -> AsyncIterator[dict[str, Any]]:
    query = (
        select(Order, Customer.name, Invoice.text)
        .join(Order.customer)
        .outerjoin(Invoice, Invoice.order_id == Order.id)
        .order_by(Order.id)
    )
    if order_id is not None:
        query = query.where(Order.id == order_id)
    for order, customer, invoice in await session.execute(query):
        yield {
            "id": order.id, "customer": customer, "item": order.item, "cents": order.cents,
            "state": order.state, "invoice": invoice,
        }  # fmt: skip
