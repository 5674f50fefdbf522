"""The shop on Flask-SQLAlchemy and Flask-Migrate."""

import pytest
from sqlalchemy import text

from examples.flask_shop.app import create_app
from examples.flask_shop.models import Product, db
from tests.examples.programs import Programs
from tests.reader import ROOT

pytestmark = pytest.mark.one_driver


def test_what_is_sold_out_is_ordered_again_by_a_handler_in_the_application_context(url: str) -> None:
    programs = Programs("flask_shop", url)
    flask = ("--app", "examples.flask_shop.app:create_app", "db")
    migrations = ("--directory", "examples/flask_shop/migrations")
    programs.run("flask", *flask, "upgrade", *migrations, folder=ROOT)
    assert "No new upgrade operations" in programs.run("flask", *flask, "check", *migrations, folder=ROOT)
    app = create_app({"SQLALCHEMY_DATABASE_URI": url})
    client = app.test_client()
    with app.app_context():
        db.session.add_all([Product(name="lamp", stock=2), Product(name="chair", stock=5)])
        db.session.commit()
        assert [client.post("/products/lamp/buy").get_json() for _ in range(2)] == [{"left": 1}, {"left": 0}]
        assert client.post("/products/lamp/buy").status_code == 409
        # Not in a request, and by no session of the application.
        with db.engine.begin() as connection:
            connection.execute(text("UPDATE product SET stock = 0 WHERE name = 'chair'"))
        said = programs.run("sqla_pubsub", "listen", "--drain")
        assert "2 events handled, 0 failed" in said
        assert client.get("/supply-orders").get_json() == [
            {"product": "lamp", "supplier": "Wholesale Ltd"},
            {"product": "chair", "supplier": "Wholesale Ltd"},
        ]
        db.session.remove()
        db.engine.dispose()


def test_what_its_readme_says_can_be_done_and_its_own_tests_pass(url: str) -> None:
    assert "3 passed" in Programs("flask_shop", url).read()
