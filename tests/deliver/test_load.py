"""``load=``: relationships that come loaded with the rows of events, for the whole group at once."""

import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text, update
from sqlalchemy.orm import Session, defaultload, joinedload, selectinload, subqueryload

from sqla_pubsub import ConfigurationError, RetryPolicy, after_delete, after_insert, after_update
from tests.deliver.blog import Blog

LONG = timedelta(seconds=30)
"""So long that the time that events take makes no group smaller."""
LATER = RetryPolicy(max_attempts=3, initial=timedelta(minutes=5), jitter=False)
READS = re.compile(r"FROM (article|author|tag|comment)\b")


@pytest.fixture
def blog(engine: Engine) -> Blog:
    return Blog(engine)


def nested(blog: Blog) -> list[Any]:
    return [selectinload(blog.Comment.article).selectinload(blog.Article.author)]


@pytest.mark.parametrize("options", [{}, {"ordered": True}, {"effects": "database"}])
def test_a_group_reads_what_its_events_refer_to_in_two_statements(blog: Blog, options: Any) -> None:
    seen: list[Any] = []

    @after_insert(blog.Comment, load=nested(blog), **options)
    def collect(new: Any) -> None:
        seen.append((new.content, new.article.title, new.article.author.name))

    blog.fill(60, articles=3)
    with blog.statements() as sent:
        assert blog.drain(commit_every=LONG) == 60
    assert seen[:4] == [
        ("1", "article 1", "author 1"),
        ("2", "article 2", "author 2"),
        ("3", "article 3", "author 3"),
        ("4", "article 1", "author 1"),
    ]
    assert len(seen) == 60
    # A group of one event, and one of all others.
    assert [READS.search(each).group(1) for each in sent] == ["article", "author"] * 2  # type: ignore[union-attr]


def test_without_load_each_event_reads_for_itself(blog: Blog) -> None:
    seen: list[Any] = []

    @after_insert(blog.Comment)
    def collect(new: Any) -> None:
        seen.append(new.article.author.name)

    blog.fill(10)
    with blog.statements() as sent:
        blog.drain()
    assert len(sent) == 20


def test_a_batch_reads_what_its_events_refer_to_in_two_statements(blog: Blog) -> None:
    seen: list[list[str]] = []

    @after_insert(blog.Comment, batch=20, load=nested(blog))
    def collect(events: Any) -> None:
        seen.append([f"{each.new.content} {each.new.article.author.name}" for each in events])
        assert events[0].new.article is events[3].new.article

    blog.fill(20, articles=3)
    with blog.statements() as sent:
        assert blog.drain() == 20
    assert seen[-1][-1] == "20 author 2"
    assert len(sent) == 2 * len(seen)


@pytest.mark.parametrize("strategy", [joinedload, selectinload, subqueryload])
def test_a_loader_option_of_any_strategy_is_read_once_for_the_group(blog: Blog, strategy: Any) -> None:
    seen: list[str] = []

    @after_insert(blog.Comment, batch=20, load=strategy(blog.Comment.article).joinedload(blog.Article.author))
    def collect(events: Any) -> None:
        seen.extend(each.new.article.author.name for each in events)

    blog.fill(20, articles=2)
    with blog.statements() as sent:
        blog.drain(claim_size=20)
    assert seen == ["author 1", "author 2"] * 10
    assert {READS.search(each).group(1) for each in sent} == {"article"}  # type: ignore[union-attr]
    assert len(sent) <= 3


def test_without_a_transaction_what_an_event_refers_to_is_loaded_too(blog: Blog) -> None:
    seen: list[str] = []

    @after_insert(blog.Comment, transactional=False, load=[blog.Comment.article, blog.Comment.tags])
    def collect(new: Any) -> None:
        seen.append(f"{new.article.title} {[tag.name for tag in new.tags]}")

    blog.fill(2)
    blog.execute("INSERT INTO tag (id, comment_id, name) VALUES (1, 2, 'a'), (2, 2, 'b')")
    with blog.statements() as sent:
        assert blog.drain() == 2
    assert seen == ["article 1 []", "article 1 ['a', 'b']"]
    assert len(sent) == 4


def test_the_row_of_the_event_says_what_it_refers_to_and_not_the_row_in_the_table(blog: Blog) -> None:
    seen: list[Any] = []

    @after_insert(blog.Comment, load=[blog.Comment.article])
    @after_update(blog.Comment, load=[blog.Comment.article])
    def collect(event: Any) -> None:
        old = event.old and event.old.article.title
        seen.append(
            (old, event.new.article_id, event.new.article and event.new.article.title, event.new.content)
        )

    blog.fill(1, articles=3)
    blog.execute("UPDATE comment SET article_id = 2, content = 'second'")
    blog.execute("UPDATE comment SET article_id = 3, content = 'third'")
    blog.execute("DELETE FROM comment")
    blog.execute("DELETE FROM article WHERE id = 3")
    blog.execute("UPDATE article SET title = 'of now' WHERE id = 1")
    assert blog.drain() == 3
    assert seen == [
        (None, 1, "of now", "1"),
        ("of now", 2, "article 2", "second"),
        ("article 2", 3, None, "third"),
    ]


def test_several_updates_of_one_row_in_one_group_refer_each_to_their_own(blog: Blog) -> None:
    seen: list[list[str]] = []

    @after_update(blog.Comment, batch=50, load=blog.Comment.article)
    def collect(events: Any) -> None:
        seen.append([f"{each.old.article.title} > {each.new.article.title}" for each in events])

    blog.fill(1, articles=4)
    for article in (2, 3, 4, 1):
        blog.execute(f"UPDATE comment SET article_id = {article}")
    blog.drain()
    assert [each for group in seen for each in group] == [
        "article 1 > article 2", "article 2 > article 3", "article 3 > article 4", "article 4 > article 1",
    ]  # fmt: skip


def test_a_deleted_row_refers_to_what_it_did(blog: Blog) -> None:
    seen: list[Any] = []

    @after_delete(blog.Comment, load=[blog.Comment.article, blog.Comment.tags])
    def collect(old: Any, session: Session) -> None:
        seen.append((old.article.title, [tag.name for tag in old.tags], old.article in session))

    blog.fill(1)
    blog.execute("INSERT INTO tag (id, comment_id, name) VALUES (1, 1, 'a')")
    blog.execute("DELETE FROM comment")
    blog.drain()
    assert seen == [("article 1", ["a"], True)]


def test_what_is_loaded_makes_nothing_dirty_and_writes_nothing(blog: Blog) -> None:
    seen: list[Any] = []

    @after_insert(blog.Comment, load=[*nested(blog), blog.Comment.tags])
    def collect(new: Any, session: Session) -> None:
        seen.append((list(session.dirty), list(session.new), session.is_modified(new.article), len(new.tags)))
        session.add(blog.Job(title=new.article.title))

    blog.fill(3)
    with blog.statements() as sent:
        blog.drain()
    assert seen == [([], [], False, 0)] * 3
    assert blog.titles() == ["article 1"] * 3
    assert not [each for each in sent if not each.startswith("SELECT")]


def test_objects_that_are_only_added_still_wait_for_the_end_of_the_group(blog: Blog) -> None:
    @after_insert(blog.Comment, load=[blog.Comment.article])
    def index(new: Any, session: Session) -> None:
        session.add(blog.Job(title=new.article.title))

    blog.fill(40)
    sent: list[str] = []
    event.listen(blog.engine, "before_cursor_execute", lambda _c, _r, statement, *_: sent.append(statement))
    blog.drain(commit_every=LONG)
    assert blog.titles() == ["article 1"] * 40
    assert len([each for each in sent if each.startswith("INSERT INTO job")]) == 2
    assert len([each for each in sent if each.startswith("SAVEPOINT")]) == 2


def test_an_event_sees_what_earlier_handlers_of_its_group_have_changed(blog: Blog) -> None:
    """Counting would lose all but one, if each event had the row as it was when the group began."""

    @after_insert(blog.Comment, load=[blog.Comment.article])
    def count(new: Any, session: Session) -> None:
        new.article.comments += 1

    blog.fill(30, articles=2)
    blog.drain()
    with Session(blog.engine) as session:
        assert session.scalars(select(blog.Article.comments).order_by(blog.Article.id)).all() == [15, 15]


@pytest.mark.parametrize("how", ["orm", "core", "text", "added"])
def test_an_event_sees_what_was_written_past_the_loaded_objects(blog: Blog, how: str) -> None:
    seen: list[Any] = []

    @after_insert(blog.Comment, load=[blog.Comment.article, blog.Comment.tags])
    @after_update(blog.Comment, load=[blog.Comment.article, blog.Comment.tags])
    def change(new: Any, session: Session) -> None:
        seen.append((new.article.comments, len(new.tags)))
        match how:
            case "orm":
                session.get_one(blog.Article, 1).comments += 1
            case "core":
                session.execute(update(blog.Article).values(comments=blog.Article.comments + 1))
            case "text":
                session.execute(text("WITH x AS (UPDATE article SET comments = comments + 1) SELECT 1"))
            case _:
                session.add(blog.Tag(comment_id=1, name=f"{len(seen)}"))

    blog.fill(1)
    for number in range(6):
        blog.execute(f"UPDATE comment SET content = 'v{number}'")
    blog.drain()
    assert seen == [(0, number) if how == "added" else (number, 0) for number in range(7)]


def test_what_a_failing_handler_did_to_a_loaded_object_is_gone(blog: Blog) -> None:
    seen: list[Any] = []

    @after_insert(blog.Comment, load=[blog.Comment.article], retry=RetryPolicy(max_attempts=1))
    def change(new: Any, session: Session) -> None:
        seen.append((new.article.title, dict(new.article.extra)))
        new.article.title = f"changed by {new.id}"
        new.article.extra["by"] = new.id
        if new.id in {2, 3}:
            session.flush()
        if new.id != 5:
            raise ValueError

    blog.fill(6)
    blog.drain()
    assert seen[:5] == [("article 1", {})] * 5
    assert seen[5:] == [("changed by 5", {"by": 5})]
    assert len(blog.dead()) == 5


def test_a_changeable_value_of_one_event_is_not_that_of_the_next(blog: Blog) -> None:
    seen: list[Any] = []

    @after_insert(blog.Comment, transactional=False, load=[blog.Comment.article])
    def change(new: Any) -> None:
        seen.append(dict(new.article.extra))
        new.article.extra["by"] = new.id

    blog.fill(3)
    blog.drain()
    # Each was written when its handler had returned.
    assert seen == [{}, {"by": 1}, {"by": 2}]


def test_what_the_handler_has_loaded_by_itself_stays_as_it_is_in_a_batch(blog: Blog) -> None:
    seen: list[Any] = []

    @after_insert(blog.Comment, batch=20, load=[blog.Comment.article])
    def collect(events: Any, session: Session) -> None:
        own = session.get_one(blog.Article, 1)
        own.title = "mine"
        seen.append({each.new.article is own for each in events})

    blog.fill(5)
    blog.drain()
    assert set.union(*seen) == {True}
    with Session(blog.engine) as session:
        assert session.get_one(blog.Article, 1).title == "mine"


def test_of_a_group_whose_load_fails_only_the_events_to_blame_fail(blog: Blog) -> None:
    seen: list[int] = []

    @after_insert(blog.Comment, load=[blog.Comment.article], retry=RetryPolicy(max_attempts=1))
    def collect(new: Any) -> None:
        seen.append(new.id)

    blog.fill(30, articles=3)
    blog.poison(2)
    assert blog.drain() == 30
    assert sorted(seen) == [number for number in range(1, 31) if number % 3 != 2]
    assert [letter.new["id"] for letter in blog.dead()] == list(range(2, 31, 3))
    assert "division by zero" in blog.dead()[0].reason


def test_an_event_whose_load_fails_is_tried_again(blog: Blog) -> None:
    seen: list[int] = []

    @after_insert(blog.Comment, load=[blog.Comment.article], retry=LATER)
    def collect(new: Any) -> None:
        seen.append(new.id)

    blog.fill(2)
    blog.execute("ALTER TABLE article RENAME COLUMN title TO name")
    assert blog.drain() == 2
    blog.execute("ALTER TABLE article RENAME COLUMN name TO title")
    blog.execute("UPDATE pubsub_outbox SET due_at = now()")
    assert blog.drain() == 2
    assert sorted(seen) == [1, 2]


def test_a_batch_of_events_whose_load_fails_falls_apart(blog: Blog) -> None:
    seen: list[int] = []

    @after_insert(blog.Comment, batch=10, load=[blog.Comment.article], retry=RetryPolicy(max_attempts=1))
    def collect(events: Any) -> None:
        seen.extend(each.new.id for each in events if each.new.article is not None)

    blog.fill(9, articles=3)
    blog.poison(2)
    assert blog.drain() == 9
    assert sorted(seen) == [1, 3, 4, 6, 7, 9]
    assert len(blog.dead()) == 3


def test_without_a_transaction_only_the_events_to_blame_fail(blog: Blog) -> None:
    seen: list[int] = []

    @after_insert(
        blog.Comment, transactional=False, load=[blog.Comment.article], retry=RetryPolicy(max_attempts=1)
    )
    def collect(new: Any) -> None:
        seen.append(new.id)

    blog.fill(6, articles=3)
    blog.poison(2)
    assert blog.drain() == 6
    assert sorted(seen) == [1, 3, 4, 6]
    assert len(blog.dead()) == 2


def test_what_is_read_again_is_read_without_the_settings_of_the_handler_before(blog: Blog) -> None:
    seen: list[int] = []

    @after_insert(blog.Comment, load=[blog.Comment.article], retry=RetryPolicy(max_attempts=1))
    def change(new: Any, session: Session) -> None:
        seen.append(new.article.comments)
        session.execute(text("UPDATE article SET comments = comments + 1"))
        session.execute(text("SET LOCAL search_path = pg_catalog"))

    blog.fill(6)
    assert blog.drain() == 6
    assert seen == [0, 1, 2, 3, 4, 5]
    assert blog.dead() == []


def test_relationships_and_options_of_the_same_one_go_together(blog: Blog) -> None:
    seen: list[str] = []
    comment, article = blog.Comment, blog.Article
    load = [
        comment.article,
        joinedload(comment.article, innerjoin=True).joinedload(article.author),
        *nested_joined(blog),
    ]

    @after_insert(comment, load=load)
    def collect(new: Any) -> None:
        seen.append(new.article.author.name)

    blog.fill(3)
    with blog.statements() as sent:
        blog.drain()
    assert seen == ["author 1"] * 3
    assert {READS.search(each).group(1) for each in sent} == {"article"}  # type: ignore[union-attr]


def nested_joined(blog: Blog) -> list[Any]:
    return [defaultload(blog.Comment.article).load_only(blog.Article.title)]


def test_options_that_contradict_each_other_are_refused_at_the_start(blog: Blog) -> None:
    comment, article = blog.Comment, blog.Article
    load = [
        selectinload(comment.article).selectinload(article.author),
        selectinload(comment.article).joinedload(article.author),
    ]

    @after_insert(comment, load=load)
    def collect(new: Any) -> None: ...

    blog.fill(1)
    with pytest.raises(ConfigurationError, match=r"listener 'collect': load= cannot be used: .*conflict"):
        blog.drain()


@pytest.mark.parametrize("handled", [True, False])
def test_a_listener_without_load_sends_nothing_more(blog: Blog, handled: bool) -> None:
    @after_insert(blog.Comment, load=[] if handled else None)
    def collect(new: Any) -> None:
        assert new.id

    blog.fill(5)
    with blog.statements() as sent:
        blog.drain()
    assert sent == []
