"""Lower bounds from rank patterns, with replica counts left free, and the evidence for them."""
