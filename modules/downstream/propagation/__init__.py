"""Label propagation: masks, parts and joints of the first frame are carried through a video by the similarity of features."""
