"""What operators do: status, dead letters, crashes, backfill."""
