"""From a wake-up to a settled entry: wake-up -> claim -> decode -> handler -> settle."""
