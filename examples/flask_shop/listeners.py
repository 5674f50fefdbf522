"""What is sold out is ordered again, whoever sold it."""

from __future__ import annotations

from flask import current_app
from sqlalchemy.orm import Session

from examples.flask_shop.models import Product, SupplyOrder
from sqla_pubsub import after_update


@after_update(Product, of=[Product.stock], when=lambda new: new.stock == 0)
def order_again(new: Product, session: Session) -> None:
    """Write an order, committed together with the acknowledgement of the event: one for each time it is sold out."""
    session.add(SupplyOrder(product_id=new.id, supplier=current_app.config["SUPPLIER"]))
