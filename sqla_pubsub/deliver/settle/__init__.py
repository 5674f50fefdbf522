"""What becomes of an event, and how that is written down."""
