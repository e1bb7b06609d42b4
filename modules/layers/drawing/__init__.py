"""Drawing of clips, skeletons and other streams, of what methods predict, and of pages with all streams of a sample."""
