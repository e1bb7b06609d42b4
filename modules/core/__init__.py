"""The ground: batches, tokens, random numbers, files, errors. It imports no other room."""
