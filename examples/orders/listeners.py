"""What happens after an order: an invoice is written, and the pages that show orders are told."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from examples.orders.models import Invoice, Order
from sqla_pubsub import after_insert, after_update

CHANNEL = "orders"
"""Every web process listens on it."""


@after_insert(Order, load=[Order.customer])
async def write_invoice(new: Order, session: AsyncSession) -> None:
    """Write the invoice of an order: once, because it is committed together with the acknowledgement."""
    text = f"{new.customer.name}: {new.item}, {new.cents / 100:.2f}"
    session.add(Invoice(order_id=new.id, text=text))


@after_insert(Order, ordered=True)
@after_update(Order, of=[Order.state], ordered=True)
@after_insert(Invoice, ordered=True)
async def tell_pages(new: Order | Invoice, session: AsyncSession) -> None:
    """Tell every web process which order has changed, not only the one in which this handler runs."""
    order_id = new.id if isinstance(new, Order) else new.order_id
    await session.execute(select(func.pg_notify(CHANNEL, str(order_id))))
