"""Where bytes are: iterators over lent memory, bvec chains, folios and the emulated physical address space."""
