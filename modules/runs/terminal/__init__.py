"""Terminal output of a run: few lines, without repetitions and without messages that users cannot act on."""
