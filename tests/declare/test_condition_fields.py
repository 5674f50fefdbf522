"""Which fields of old and new a condition given as SQL reads; where it is not sure, none."""

import pytest

from sqla_pubsub.declare.conditions.fields import bare, fields


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("new.contnt = 'x'", ["new.contnt"]),
        ("old.stars < new.stars", ["old.stars", "new.stars"]),
        ("NEW . Body > 1", ["new.Body"]),
        ("old.a is distinct from new.b", ["old.a", "new.b"]),
        ("(new.address).city = 'x'", ["new.address"]),
        ("row_to_json(new)::text = new.a", ["new.a"]),
        ("new.größe > new.a$b", ["new.größe", "new.a$b"]),
        ('"new".a > 1', ["new.a"]),
        (r"E'it\'s new.x' = new.y", ["new.y"]),
        ("'it''s new.x' = new.y", ["new.y"]),
        ("-- new.x isn't\n new.y > 1", ["new.y"]),
        ("/* new.x isn't */ new.y > 1", ["new.y"]),
        ("extract(epoch from new.created) > 1", ["new.created"]),
        ("exists (select 1 from vip where vip.id = new.autor)", ["new.autor"]),
        ("exists (select 1 from vip where vip.id is distinct from new.autor)", ["new.autor"]),
    ],
)
def test_fields_are_found(condition: str, found: list[str]) -> None:
    assert [f"{side}.{word}" for side, word in fields(condition)] == found


@pytest.mark.parametrize(
    "condition",
    [
        "true",
        "new.* is not null",
        "count(new.*) > 0",
        "to_jsonb(new) ->> 'x' = '1'",
        "length('new.x') > 1",
        "like'new.x'",
        "$$new.x$$ = $a$ $$new.y $a$",
        'new."x" > 1',
        '"a new.x b" > 1',
        "renew.x > 1",
        "shop.new.x > 1",
        "new.f(1)",
        "new.f (1)",
        "/* a /* new.x */ new.y */ true",
        "'new.x",
        "exists (select 1 from t as new where new.x > 1)",
        "exists (select 1 from t new where new.x > 1)",
        "exists (select 1 from new.orders)",
        "exists (select 1 from t join old.orders on true)",
    ],
)
def test_what_may_be_something_else_is_no_field(condition: str) -> None:
    assert fields(condition) == []


def test_a_word_in_quotes_or_a_comment_is_none() -> None:
    condition = """new."old" = 'old' or $$old$$ = E'\\'old' -- old\n or /* old */ new.b"""
    assert "old" not in bare(condition)
