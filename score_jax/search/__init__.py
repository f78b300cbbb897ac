"""Search over passages: BM25 on a corpus, or a Search-R1 server."""
