"""What connects to systems that a project may have: logs, Prometheus, OpenTelemetry, Sentry.

Most modules need an extra, and nothing of ours imports them.
"""
