"""The motion core: how synthetic objects move, what they look like, and how they are drawn into clips."""
