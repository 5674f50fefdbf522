"""Orders: a web application on an event loop, a listener inside of it, and one beside it."""
