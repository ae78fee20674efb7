"""For all tests: properties have no time limit, since a busy machine is not a fault."""

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
