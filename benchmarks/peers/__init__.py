"""Adapters: one file a system. README.md tells how to add one."""
