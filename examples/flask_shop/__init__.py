"""A shop on Flask-SQLAlchemy and Flask-Migrate, whose listener orders again what is sold out."""
