"""The Django project of django-pgpubsub."""
