"""The application: buy a product, see what was ordered from the supplier."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from flask import Flask, abort
from flask.typing import ResponseReturnValue
from flask_migrate import Migrate
from sqlalchemy import Engine, select, update

from examples.flask_shop.models import Product, SupplyOrder, db
from sqla_pubsub import CurrentEvent

migrate = Migrate()


def create_app(settings: Mapping[str, Any] | None = None) -> Flask:
    """Return the application; its database is that of ``DATABASE_URL``, unless the *settings* say otherwise."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("DATABASE_URL", "postgresql+psycopg2:///shop")
    app.config["SUPPLIER"] = "Wholesale Ltd"
    app.config.from_mapping(settings or {})
    db.init_app(app)
    migrate.init_app(app, db)

    @app.post("/products/<name>/buy")
    def buy(name: str) -> ResponseReturnValue:
        # No object of the ORM is changed here: it is the table that publishes.
        sold = update(Product).where(Product.name == name, Product.stock > 0).values(stock=Product.stock - 1)
        left = db.session.scalar(sold.returning(Product.stock))
        if left is None:
            abort(409, f"{name} is not in stock.")
        db.session.commit()
        return {"left": left}

    @app.get("/supply-orders")
    def supply_orders() -> ResponseReturnValue:
        found = db.session.scalars(select(SupplyOrder).order_by(SupplyOrder.id))
        return [{"product": each.product.name, "supplier": each.supplier} for each in found]

    return app


@cache
def _app() -> Flask:
    """One application for the whole worker process."""
    return create_app()


def engine() -> Engine:
    """The application's engine, for the commands of sqla-pubsub."""
    with _app().app_context():
        return db.engine


def in_context(_: CurrentEvent) -> AbstractContextManager[Any]:
    """Handlers run in an application context, as requests do: ``current_app`` works in them."""
    return _app().app_context()
