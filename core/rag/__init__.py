"""Answers from retrieved passages: documents are read, cut into chunks, indexed, found again, and read by a base.

    store.Store            chunks on disk with their text, words and vectors: put, update, delete, filter
    read.documents(path)   txt, md, pdf and csv files
    chunks.cut(text)       overlapping pieces with their place in the source
    embed.embedder(name)   texts to vectors: "words" (offline), "spelling", or any sentence-transformers model
    retrieve.Retriever     dense, lexical, or both fused
    answer.Reader          the answer of a base (with an adapter, if wanted) and the passages that it comes from
    quality                recall@k and MRR
    raft                   what a reader learns from, with distractors
    experiment             prompting, retrieval, fine-tuning and both on the same needs, measured

Nothing here imports torch until a model has to answer.
"""
