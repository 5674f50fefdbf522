"""Nothing is lost and nothing overtakes, whoever is killed: workers at each point, engines, PostgreSQL; or wakes up late."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine

from tests.cli.project import Shop
from tests.lengths import length
from tests.outlets.engines import Engine, celery, kafka, nats, rabbitmq, redis, webhook
from tests.outlets.proof import POINTS, Proof
from tests.servers import Server

pytestmark = pytest.mark.one_driver
ENGINES = ["kafka", "redis", "nats", "webhook", "rabbitmq-stream", "nats-strict", "rabbitmq-queue", "celery"]
ROUNDS = 10
"""How often each of them is done at full length."""


def engine_of(name: str, request: pytest.FixtureRequest) -> Engine:
    match name:
        case "nats" | "nats-strict":
            if nats.PROGRAM is None:
                pytest.skip("no nats-server is installed")
            return nats.Nats(strict=name == "nats-strict")
        case "kafka":
            if kafka.PROGRAM is None:
                pytest.skip("no broker: noida-db is not installed")
            return kafka.KafkaEngine()
        case "redis" | "celery":
            if redis.PROGRAM is None:
                pytest.skip("no redis-server is installed")
            return celery.CeleryEngine() if name == "celery" else redis.RedisEngine()
        case "rabbitmq-stream":
            return rabbitmq.RabbitStreamEngine(request.getfixturevalue("rabbitmq"))
        case "rabbitmq-queue":
            return rabbitmq.RabbitQueueEngine(request.getfixturevalue("rabbitmq"))
        case _:
            return webhook.WebhookEngine()


@pytest.fixture
def proof(tmp_path: Path, url: str, server: Server, request: pytest.FixtureRequest) -> Iterator[Proof]:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    engine = engine_of(request.param, request)
    shop = Shop(tmp_path, create_engine(url, poolclass=NullPool), url)
    try:
        engine.start()
        yield Proof(shop, server, engine, random.Random(seed))
    finally:
        shop.close()
        engine.stop()


@pytest.mark.timeout(0)
@pytest.mark.in_turn("proof")
@pytest.mark.parametrize(
    "faults",
    [POINTS, ("kill_engine",), ("kill_postgresql",), ("wake_up_late",)],
    ids=["workers", "engine", "postgresql", "late"],
)
@pytest.mark.parametrize("proof", ENGINES, indirect=True)
def test_all_that_is_committed_arrives_in_order_whoever_is_killed(
    proof: Proof, faults: tuple[str, ...]
) -> None:
    several = list(faults) * length(short=1, full=ROUNDS)
    random.shuffle(several)
    proof.run(several)
    proof.compare()


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("proof", ENGINES, indirect=True)
def test_an_engine_that_is_away_for_long_is_waited_for_and_then_given_all_in_order(proof: Proof) -> None:
    proof.run(["be_away"])
    proof.compare()
