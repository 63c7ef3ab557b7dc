"""Our own exact search: packings, and counts together with packings, on 64-bit integers."""
