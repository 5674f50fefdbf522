"""Products with a stock, and orders to the supplier."""

from __future__ import annotations

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from sqla_pubsub import PubSub


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


class Product(PubSub, db.Model):  # type: ignore[misc, name-defined]
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    stock: Mapped[int]


class SupplyOrder(db.Model):  # type: ignore[misc, name-defined]
    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey(Product.id))
    supplier: Mapped[str]
    product: Mapped[Product] = relationship()
