"""Data: from publishers' rows to conversations, one mix, and packed chunks."""

import os

# Arrow reads it once, when it is first imported. Its usual allocator keeps what was freed, this one gives it back: a third
# less memory over a long mix. A build without it warns and takes the usual one.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")
