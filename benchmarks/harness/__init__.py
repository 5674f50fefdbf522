"""Runs systems that tell of new rows on the same work, one in its environment after the other, and measures them.

Modules that a child process imports (`adapter`, `child`, `context`, `handled`, `producers`, `schema`, `waiting`)
use nothing but the standard library, and `producers` SQLAlchemy: they run in the environments of other systems.
"""
