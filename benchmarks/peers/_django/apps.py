from django.apps import AppConfig


class BenchappConfig(AppConfig):
    name = "benchmarks.peers._django"
    label = "bench"

    def ready(self):
        import benchmarks.peers._django.listeners  # noqa: F401
