"""A schema for each tenant, with an outbox of its own: by ``schema_translate_map`` or by the search path.

Two tenants stand side by side in one database, with rows of the same ids in tables of the same names.
"""

import enum
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, Enum, ForeignKey, MetaData, String, TypeDecorator, create_engine, select, text
from sqlalchemy.dialects.postgresql import ARRAY, DOMAIN
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from sqla_pubsub import (
    Listener,
    ListenerConfig,
    Message,
    PubSub,
    Reject,
    after_insert,
    after_update,
    check,
    on_message,
    outbox,
    publish,
    set_context,
)
from sqla_pubsub.operate.admin import Admin, Letters
from tests.deliver.notes import DEADLINE, running
from tests.translated import translated
from tests.waiting import wait_until

pytestmark = pytest.mark.either_driver

A, B = TENANTS = ("tenantA", "Tenant %b:c")


class Mood(enum.Enum):
    good = 1
    bad = 2


class Loud(TypeDecorator[Mood]):
    """A type of the user's own around a type of the tenant's schema."""

    impl = Enum
    cache_ok = True


class Shop:
    """Models without a schema, or of a symbolic one, and an engine for each tenant.

    Args:
        engine: The common engine.
        symbol: The schema that the models are declared with.
        way: How a tenant's engine tells its schema.
    """

    def __init__(self, engine: Engine, symbol: str | None, way: str) -> None:
        class Base(DeclarativeBase):
            metadata = MetaData(schema=symbol)

        feeling = Enum(Mood, metadata=Base.metadata)
        loud = Loud(Mood, name="loud", metadata=Base.metadata)
        nine = DOMAIN("short", String(9), metadata=Base.metadata)

        class Article(Base):
            __tablename__ = "article"
            id: Mapped[int] = mapped_column(primary_key=True)
            title: Mapped[str]

        class Comment(PubSub, Base):
            __tablename__ = "comment"
            id: Mapped[int] = mapped_column(primary_key=True)
            article_id: Mapped[int] = mapped_column(ForeignKey(Article.id))
            mood: Mapped[Mood] = mapped_column(feeling, default=Mood.bad)
            moods: Mapped[list[Mood]] = mapped_column(ARRAY(feeling), default=[Mood.good, Mood.bad])
            second: Mapped[Mood] = mapped_column(loud, default=Mood.good)
            short: Mapped[str] = mapped_column(nine, default="brief")
            article: Mapped[Article] = relationship()

        class Effect(Base):
            __tablename__ = "effect"
            id: Mapped[int] = mapped_column(primary_key=True)
            what: Mapped[str]

        class Viewed(Message, metadata=Base.metadata, name="viewed"):
            count: int

        self.Article, self.Comment, self.Effect, self.Viewed = Article, Comment, Effect, Viewed
        self.metadata: MetaData = Base.metadata
        self.symbol, self.common = symbol, engine
        self.engines = {tenant: self._engine(tenant, way) for tenant in TENANTS}

    def _engine(self, tenant: str, way: str) -> Engine:
        if way == "translated":
            return translated(self.common, {self.symbol: tenant})
        escaped = f'"{tenant}"'.replace(" ", "\\ ")
        url = self.common.url.update_query_dict({"options": f"-csearch_path={escaped}"})
        return create_engine(url, poolclass=NullPool)

    def install(self) -> None:
        """Give each tenant its schema, its tables and its triggers."""
        for tenant, engine in self.engines.items():
            with self.common.begin() as connection:
                connection.execute(CreateSchema(tenant))
            self.metadata.create_all(engine)

    def comment(self, tenant: str, **values: Any) -> None:
        """Add a comment on an article that is called after the tenant."""
        with Session(self.engines[tenant]) as session, session.begin():
            session.add(self.Comment(article=self.Article(title=f"of {tenant}"), **values))

    def view(self, tenant: str) -> None:
        """Publish a message in the context of the tenant."""
        with Session(self.engines[tenant]) as session, session.begin():
            set_context(session, tenant=tenant)
            publish(session, self.Viewed(count=3))

    def effects(self, tenant: str) -> list[str]:
        """Return what the handlers wrote into the tenant's schema."""
        with Session(self.engines[tenant]) as session:
            return list(session.scalars(select(self.Effect.what).order_by(self.Effect.id)))

    def waiting(self, tenant: str) -> list[str]:
        """Return the listeners of the entries in the tenant's outbox."""
        entry = outbox(self.metadata).Entry
        with Session(self.engines[tenant]) as session:
            return list(session.scalars(select(entry.listener).order_by(entry.id)))

    def listener(self, tenant: str, **settings: Any) -> Listener:
        """Return a listener of the tenant."""
        return Listener(self.engines[tenant], self.metadata, ListenerConfig(**settings))

    def execute(self, tenant: str, statement: str) -> None:
        """Run SQL with the tenant's schema alone on the search path."""
        with self.common.begin() as connection:
            connection.execute(
                text("SELECT set_config('search_path', quote_ident(:tenant), true)"), {"tenant": tenant}
            )
            connection.execute(text(statement))


@pytest.fixture(
    params=[(None, "translated"), ("per_tenant", "translated"), (None, "on the search path")], ids=str
)
def shop(engine: Engine, request: pytest.FixtureRequest) -> Iterator[Shop]:
    shop = Shop(engine, *request.param)
    yield shop
    for own in shop.engines.values():
        own.dispose()


def test_each_tenants_listener_handles_its_own_events_with_its_own_rows(shop: Shop) -> None:
    @after_insert(shop.Comment)
    def note(new: Any, session: Session) -> None:
        moods = [mood.name for mood in (new.mood, *new.moods, new.second)]
        session.add(shop.Effect(what=f"{new.article.title}: {moods} {new.short}"))

    @on_message(shop.Viewed)
    def view(new: Any, context: Any, session: Session) -> None:
        session.add(shop.Effect(what=f"{context['tenant']}: {new.count}"))

    shop.install()
    for tenant in TENANTS:
        shop.comment(tenant)
        shop.view(tenant)
    expected = "of {0}: ['bad', 'good', 'bad', 'good'] brief|{0}: 3"
    assert shop.listener(A).drain() == 2
    assert shop.effects(A) == expected.format(A).split("|")
    assert (shop.waiting(A), shop.effects(B), shop.waiting(B)) == ([], [], ["note", "view"])
    assert shop.listener(B).drain() == 2
    assert shop.effects(B) == expected.format(B).split("|")


def test_a_condition_may_name_a_type_of_the_tenant(shop: Shop) -> None:
    @after_update(shop.Comment, when="new.mood = 'good'::mood")
    def cheer(new: Any, session: Session) -> None:
        session.add(shop.Effect(what=new.mood.name))

    shop.install()
    for tenant in TENANTS:
        shop.comment(tenant)
        shop.execute(tenant, "UPDATE comment SET short = 'sad'")
        shop.execute(tenant, "UPDATE comment SET mood = 'good'")
        assert shop.listener(tenant).drain() == 1
        assert shop.effects(tenant) == ["good"]


def test_a_notification_wakes_the_listener_of_its_tenant(shop: Shop) -> None:
    """The poll is beyond the deadline: without notification nothing would be handled in time."""

    @after_insert(shop.Comment)
    def note(new: Any, session: Session) -> None:
        session.add(shop.Effect(what=new.article.title))

    shop.install()
    doors = text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with ExitStack() as stack:
        for tenant in TENANTS:
            stack.enter_context(running(shop.listener(tenant, poll_interval=timedelta(minutes=10))))
        observer = stack.enter_context(shop.common.connect()).execution_options(isolation_level="AUTOCOMMIT")
        wait_until(lambda: observer.scalar(doors) == 2, DEADLINE, "both tenants' listeners to sleep")
        for tenant in TENANTS:
            shop.comment(tenant)

            def handled(tenant: str = tenant) -> bool:
                return shop.effects(tenant) == [f"of {tenant}"]

            wait_until(handled, DEADLINE, "the tenant's effect")


def test_an_event_in_hand_of_one_tenant_holds_back_none_of_another(shop: Shop) -> None:
    """Outside of a transaction the claim is a lock on the entry's id, and ids begin at 1 for each tenant."""
    in_hand, go_on = threading.Event(), threading.Event()

    @after_insert(shop.Comment, transactional=False)
    def note(new: Any, session: Session) -> None:
        if new.short == "wait":
            in_hand.set()
            assert go_on.wait(DEADLINE)
        session.add(shop.Effect(what=new.article.title))

    shop.install()
    shop.comment(A, short="wait")
    shop.comment(B)
    with running(shop.listener(A)):
        assert in_hand.wait(DEADLINE)
        assert shop.listener(A).drain() == 0
        assert shop.listener(B).drain() == 1
        go_on.set()
        wait_until(lambda: shop.effects(A) == [f"of {A}"], DEADLINE, "the event in hand")
    assert shop.effects(B) == [f"of {B}"]


def test_a_direct_url_leads_to_the_same_tenant(shop: Shop) -> None:
    @after_insert(shop.Comment, transactional=False)
    def note(new: Any, session: Session) -> None:
        session.add(shop.Effect(what=new.article.title))

    shop.install()
    shop.comment(B)
    url = shop.engines[B].url.render_as_string(hide_password=False)
    assert shop.listener(B, direct_url=url).drain() == 1
    assert shop.effects(B) == [f"of {B}"]


def test_status_and_dead_letters_are_those_of_the_tenant(shop: Shop) -> None:
    @after_insert(shop.Comment)
    def note() -> None:
        raise Reject("not this one")

    shop.install()
    for tenant in TENANTS:
        shop.comment(tenant)
    shop.listener(A).drain()
    a, b = (Admin(shop.engines[tenant], shop.metadata) for tenant in TENANTS)
    assert [(row.ready, row.dead) for row in a.status() + b.status()] == [(0, 1), (1, 0)]
    assert [letter.reason for letter in a.dead_letters(Letters())] == ["not this one"]
    assert (b.dead_letters(Letters()), b.retry(Letters()), a.retry(Letters())) == ([], 0, 1)
    assert shop.waiting(A) == ["note"]


def test_check_and_create_all_and_drop_all_concern_one_tenant(shop: Shop) -> None:
    @after_insert(shop.Comment)
    @on_message(shop.Viewed)
    def note() -> None: ...

    def differences(tenant: str) -> list[str]:
        with shop.engines[tenant].connect() as connection:
            return [difference.kind for difference in check(connection, shop.metadata)]

    shop.install()
    assert differences(A) == differences(B) == []
    shop.execute(A, "DROP TRIGGER pubsub_insert ON comment")
    assert (differences(A), differences(B)) == (["missing"], [])
    shop.metadata.create_all(shop.engines[A])
    assert differences(A) == []
    shop.metadata.drop_all(shop.engines[A])
    assert (differences(A), differences(B)) == (["table", "table", "missing", "missing"], [])
    with shop.common.connect() as connection:
        left = "SELECT count(*) FROM pg_proc WHERE pronamespace = quote_ident(:tenant)::regnamespace"
        assert [connection.scalar(text(left), {"tenant": tenant}) for tenant in TENANTS] == [0, 2]
