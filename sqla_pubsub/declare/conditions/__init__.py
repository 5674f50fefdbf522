"""Conditions of listeners, from a function or SQL to what a trigger evaluates."""
