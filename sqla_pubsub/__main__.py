"""The program ``sqla-pubsub``, and ``python -m sqla_pubsub``.

A worker process imports the main module of its parent once more, and nothing of a command line: so that is not
imported before it is called.
"""


def main() -> None:
    """Run the command line."""
    from sqla_pubsub.cli import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
