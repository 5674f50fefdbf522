from flask import Flask
from sqlalchemy import func, select, update

from examples.flask_shop.models import Product, SupplyOrder, db
from sqla_pubsub.testing import (
    Drained,
    assert_not_published,
    assert_published_once,
    assert_settled,
    drain,
    fail_commit,
    inline,
)


def sell_out(name: str) -> None:
    db.session.execute(update(Product).where(Product.name == name).values(stock=0))


def test_who_buys_the_last_lamp_has_lamps_ordered_again(app: Flask) -> None:
    client = app.test_client()
    with inline(db.session):
        assert client.post("/products/lamp/buy").get_json() == {"left": 1}
        assert client.get("/supply-orders").get_json() == []
        assert client.post("/products/lamp/buy").get_json() == {"left": 0}
        assert client.get("/supply-orders").get_json() == [{"product": "lamp", "supplier": "Wholesale Ltd"}]
    assert_settled(db.session)


def test_only_what_is_sold_out_is_published(app: Flask) -> None:
    app.test_client().post("/products/lamp/buy")
    assert_not_published(db.session, Product)
    sell_out("chair")
    assert_published_once(db.session, Product, op="update", changed="stock", name="chair")


def test_an_order_is_written_once_although_a_commit_fails(app: Flask) -> None:
    sell_out("lamp")
    with fail_commit():
        assert drain(db.session) == Drained(acknowledged=1)
    assert db.session.scalar(select(func.count()).select_from(SupplyOrder)) == 1
