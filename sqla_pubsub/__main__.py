"""``python -m sqla_pubsub`` is ``sqla-pubsub``."""

from sqla_pubsub.cli import main

if __name__ == "__main__":
    main()
