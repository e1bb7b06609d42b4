"""The basics: batches, tokens, random numbers, files, errors. It imports no other room."""
