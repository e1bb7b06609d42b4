"""One method, one file, by family.

* Masked prediction: `videomae` (pixels of masked tokens), `smile` (features of an image tower, with moving objects),
  `sigma` (assignments to prototypes that are learned).
* Contrast: `moco` (two clips of a video), `tubelet_contrast` (moving tubelets), `skeleton_contrast` (views of one body).
* Video and words: `locomotion` (motion that is pasted in and told).

No method imports another; what two of them share is in `masks`, `losses`, `augment` or `layers`, one room further down.
"""
