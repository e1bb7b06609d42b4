"""Generated, labelled clips and skeletons: moving objects, backgrounds, and complete annotations."""
