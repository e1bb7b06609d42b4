"""Pictures and pages of a collection of features: the position of each recording among the others."""
