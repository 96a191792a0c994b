"""None of my words: contrast words that compete with the words asked for, so that a pixel can be none of them.

An open vocabulary gives every pixel to the nearest of the words asked for; a single word gets the whole picture. Words for
what else a picture may show take these pixels away (test-time contrastive concepts, Wysoczanska et al., arXiv 2407.05061).
`lists` holds what is shipped, `closeness` keeps synonyms, kinds and parts of an asked word out, `choice` chooses.
"""
