"""Customers and orders, and the invoices that a listener writes."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from sqla_pubsub import PubSub

STATES = ("placed", "packed", "sent")


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Order(PubSub, Base):
    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey(Customer.id))
    item: Mapped[str]
    cents: Mapped[int]
    state: Mapped[str] = mapped_column(default=STATES[0])
    customer: Mapped[Customer] = relationship()


class Invoice(PubSub, Base):
    __tablename__ = "invoice"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey(Order.id), unique=True)
    text: Mapped[str]
