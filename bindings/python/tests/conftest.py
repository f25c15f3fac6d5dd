"""Settings of all tests."""

import hypothesis

# The emulator takes what time it needs; and nothing is left behind in the repository.
hypothesis.settings.register_profile("flashcore", deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("flashcore")
