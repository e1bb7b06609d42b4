"""Generated clips for one question each: speed, order, repetitions, boxes and so on."""
