"""Settings of the Django project."""

from benchmarks.harness import context

_context = context.load()

SECRET_KEY = "bench"
DEBUG = False
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["pgtrigger", "pgpubsub", "benchmarks.peers._django"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _context.host,
        "PORT": str(_context.port),
        "USER": _context.user,
        "NAME": _context.database,
        "CONN_MAX_AGE": None,
        "DISABLE_SERVER_SIDE_CURSORS": False,  # the docs ask for this, for recovery
    }
}
# The tables are the harness's own (managed = False), so the triggers are installed
# by pgtrigger after "migrate" instead of from a migration file; the SQL is the same.
PGTRIGGER_MIGRATIONS = False
PGTRIGGER_INSTALL_ON_MIGRATE = True
# "listen --loglevel" does not reach spawned workers; this does.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"pgpubsub": {"level": "WARNING"}},
}
