"""Commands that are run once, before training: smaller videos, stores of skeletons, generated videos."""
