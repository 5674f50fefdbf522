"""The tables that all systems share. Triggers and queues are their own business."""

from __future__ import annotations

from typing import Any

ARTICLES, AUTHORS = 1000, 100

SQL = f"""
CREATE TABLE comment (
    id bigserial PRIMARY KEY,
    article_id integer NOT NULL,
    author text NOT NULL,
    content text NOT NULL
);
CREATE TABLE comment_base (LIKE comment INCLUDING ALL);
CREATE SEQUENCE comment_base_id_seq OWNED BY comment_base.id;
ALTER TABLE comment_base ALTER COLUMN id SET DEFAULT nextval('comment_base_id_seq');
CREATE TABLE result (
    id bigserial PRIMARY KEY,
    comment_id bigint NOT NULL,
    note text NOT NULL
);
CREATE TABLE author (id integer PRIMARY KEY, email text NOT NULL);
CREATE TABLE article (id integer PRIMARY KEY, author_id integer NOT NULL, title text NOT NULL);
INSERT INTO author SELECT n, 'author-' || n || '@example.org' FROM generate_series(0, {AUTHORS - 1}) AS n;
INSERT INTO article SELECT n, n % {AUTHORS}, 'article ' || n FROM generate_series(0, {ARTICLES - 1}) AS n;
"""

_FILL = (
    "the quick brown fox jumps over the lazy dog while a comment of ordinary length is being written by somebody"
    " who has an opinion about an article and wishes to share it with everybody on the internet"
)


def row(number: int) -> dict[str, Any]:
    """Return a comment: content of about 200 bytes, different in every row."""
    turn = (number * 7919) % 61
    return {
        "article_id": number % ARTICLES,
        "author": f"author-{number % 97}",
        "content": f"{number:010d} {_FILL[turn:]}{_FILL[:turn]}"[:200],
    }
