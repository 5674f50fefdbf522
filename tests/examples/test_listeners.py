"""The listeners of the examples, in transactions that are rolled back."""

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from examples.easy.listeners import SMTP_VARIABLE, count_comments, email_author
from examples.easy.mailbox import Mailbox
from examples.easy.models import Article, Base, Comment, User
from examples.orders import models as orders
from examples.orders.listeners import tell_pages, write_invoice
from sqla_pubsub.testing import (
    Drained,
    advance,
    assert_published_once,
    assert_settled,
    deliver_twice,
    drain,
    published,
    retries,
)
from tests.testing.conftest import awaited_session

pytestmark = pytest.mark.one_driver
EASY, ORDERS = Base.metadata, orders.Base.metadata


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    EASY.create_all(engine)
    with engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        transaction.rollback()


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    with Mailbox() as mailbox:
        monkeypatch.setenv(SMTP_VARIABLE, mailbox.address)
        yield mailbox


def commented(session: Session, content: str) -> Article:
    ada, grace = (User(name=name, email=f"{name.lower()}@authors.example") for name in ("Ada", "Grace"))
    article = Article(title="Row by row", author=ada)
    session.add(Comment(content=content, article=article, user=grace))
    session.flush()
    return article


def test_a_comment_is_mailed_to_the_author_of_the_article_and_not_to_its_own(
    session: Session, mailbox: Mailbox
) -> None:
    article = commented(session, "Très bien, 100 %")
    assert drain(session, metadata=EASY) == Drained(acknowledged=2)
    [mail] = mailbox.mails
    assert (mail["To"], mail["Subject"]) == ("ada@authors.example", "Grace commented on “Row by row”")
    assert mail.get_content().strip() == "Très bien, 100 %"
    assert article.comment_count == 1
    assert_settled(session, metadata=EASY)


def test_who_gets_a_mail_twice_can_tell_and_the_counter_counts_once(
    session: Session, mailbox: Mailbox
) -> None:
    article = commented(session, "Nice")
    for listener in (email_author, count_comments):
        [event] = published(session, Comment, listener=listener.__name__)
        deliver_twice(session, event, metadata=EASY)
    first, again = (mail["Message-ID"] for mail in mailbox.mails)
    assert first == again
    assert article.comment_count == 1


def test_a_mail_server_that_is_away_puts_the_mail_off_and_not_the_counter(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SMTP_VARIABLE, "127.0.0.1:1")
    article = commented(session, "Nice")
    assert drain(session, raises=False, metadata=EASY) == Drained(acknowledged=1, retried=1)
    assert article.comment_count == 1
    [retry] = retries(session, metadata=EASY)
    assert (retry.listener, retry.attempt) == (email_author.__name__, 1)
    with Mailbox() as mailbox:
        monkeypatch.setenv(SMTP_VARIABLE, mailbox.address)
        advance(session, metadata=EASY, minutes=1)
        assert drain(session, metadata=EASY) == Drained(acknowledged=1)
    assert len(mailbox.mails) == 1


def test_many_comments_are_counted_in_one_call(session: Session) -> None:
    article = commented(session, "first")
    grace = session.scalars(select(User).where(User.name == "Grace")).one()
    session.add_all([Comment(content="more", article=article, user=grace) for _ in range(9)])
    assert drain(session, listeners=[count_comments], metadata=EASY) == Drained(acknowledged=10)
    assert article.comment_count == 10


@pytest.mark.parametrize("loop_driver", ["psycopg", "asyncpg"])
def test_an_order_has_one_invoice_and_pages_are_told_of_both(engine: Engine, loop_driver: str) -> None:
    async def test() -> None:
        async with awaited_session(engine, loop_driver) as session:
            ada = orders.Customer(name="Ada")
            session.add(orders.Order(customer=ada, item="lamp", cents=1999))
            [placed] = await published(session, orders.Order, listener=write_invoice.__name__)
            await deliver_twice(session, placed, metadata=ORDERS)
            assert (await session.scalars(select(orders.Invoice.text))).all() == ["Ada: lamp, 19.99"]
            await assert_published_once(session, orders.Invoice, op="insert", listener=tell_pages.__name__)
            assert await drain(session, metadata=ORDERS) == Drained(acknowledged=2)
            await assert_settled(session, metadata=ORDERS)

    ORDERS.create_all(engine)
    asyncio.run(test())
